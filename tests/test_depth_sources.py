# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Source views: the keyframe rule of sequences, and the points shared in unordered models."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core.depth import sources


def turned(angle: float, centre: tuple[float, float, float]) -> np.ndarray:
    """(3, 4) camera at a centre, turned about y."""
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.c_[R, -R @ centre]


def line(count: int, step: float) -> np.ndarray:
    return np.stack([turned(0.0, (step * i, 0, 0)) for i in range(count)])


def test_pose_distance_of_a_known_motion() -> None:
    a, b = turned(0.2, (1, 2, 3)), turned(0.7, (1.3, 2, 3.4))
    combined, rotation, translation = sources.pose_distance(a, b)
    assert translation == pytest.approx(0.5)
    assert rotation == pytest.approx(np.sqrt(2 * (1 - (1 + 2 * np.cos(0.5)) / 3)))
    assert combined == pytest.approx(np.hypot(0.5, rotation))
    assert sources.pose_distance(a, a)[0] == pytest.approx(0, abs=1e-7)


def test_penalty_prefers_the_best_translation_and_punishes_shorter_ones() -> None:
    here = turned(0.0, (0, 0, 0))
    shifts = np.array([0.05, 0.10, 0.15, 0.20, 0.25])
    others = np.stack([turned(0.0, (s, 0, 0)) for s in shifts])
    expected = np.where(shifts < 0.15, 5, 1) * (shifts - 0.15) ** 2
    np.testing.assert_allclose(sources.view_penalty(here, others), expected, atol=1e-15)
    rotated = sources.view_penalty(here, turned(0.3, (0.15, 0, 0))[None])
    assert rotated == pytest.approx(2 * (1 - (1 + 2 * np.cos(0.3)) / 3))


def test_frames_become_keyframes_when_they_are_far_enough() -> None:
    buffer = sources.KeyframeBuffer(size=4)
    poses = line(40, 0.04)  # every third frame: 0.12 m
    added = [i for i in range(40) if buffer.add(i, poses[i])]
    assert added == list(range(0, 40, 3))
    assert len(buffer) == 4 and set(buffer.sources(poses[39], 7)) == {30, 33, 36, 39}
    assert buffer.sources(poses[39], 7, exclude=39) == [36, 33, 30]
    assert buffer.sources(poses[39], 1, exclude=39) == [36]
    assert not buffer.add(40, np.full((3, 4), np.nan))
    assert sources.KeyframeBuffer().sources(poses[0]) == []


def test_a_sequence_looks_back_and_on_request_ahead() -> None:
    poses = line(60, 0.051)  # every second frame is a keyframe: 0.102 m
    back = sources.select_sources(poses, 30)
    assert len(back) == 7 and max(back) < 30 and back[0] in (26, 28)
    assert all(i % 2 == 0 for i in back)
    both = sources.select_sources(poses, 30, future=True)
    assert min(both) < 30 < max(both) and 30 not in both and len(set(both)) == 7
    assert sources.select_sources(poses, 0) == []
    assert len(sources.select_sources(poses, 0, future=True)) == 7
    assert sources.select_sources(poses, 59, 3, buffer_size=2) == [56, 58]


def test_a_sequence_gives_what_the_buffer_gives_frame_by_frame() -> None:
    rng = np.random.default_rng(3)
    centres = np.cumsum(rng.normal(0, 0.06, (120, 3)), 0)
    poses = np.stack(
        [turned(a, tuple(c)) for a, c in zip(np.cumsum(rng.normal(0, 0.03, 120)), centres)]
    )
    buffer, frames = sources.KeyframeBuffer(), sources.keyframes(poses)
    for i in range(120):
        assert sources.select_sources(poses, i) == buffer.sources(poses[i])
        assert sources.select_sources(poses, i, frames=frames) == buffer.sources(poses[i])
        assert buffer.add(i, poses[i]) == (i in frames)


def test_units_and_lost_frames() -> None:
    poses = line(60, 0.051)
    expected = sources.select_sources(poses, 30)
    assert sources.select_sources(poses * [1, 1, 1, 100], 30, unit=0.01) == expected
    square = np.zeros((60, 4, 4))
    square[:, :3], square[:, 3, 3] = poses, 1
    assert sources.select_sources(square, 30) == expected
    square[expected[0]] = np.inf
    assert expected[0] not in sources.select_sources(square, 30)
    with pytest.raises(ValueError, match=r"cam_from_world\[30\]"):
        square[30] = np.nan
        sources.select_sources(square, 30)


@pytest.mark.parametrize(
    "changes,name",
    [({"reference": 60}, "reference"), ({"reference": -1}, "reference"), ({"count": 0}, "count"),
     ({"cam_from_world": np.zeros((4, 3, 3))}, "cam_from_world"), ({"unit": 0.0}, "unit"),
     ({"buffer_size": 0}, "buffer_size"), ({"keyframe_distance": -1.0}, "keyframe_distance"),
     ({"frames": [0, 60]}, "frames"), ({"frames": [[0]]}, "frames")],
)  # fmt: skip
def test_sequences_refuse(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        sources.select_sources(**{"cam_from_world": line(60, 0.05), "reference": 30, **changes})


def scene(*shifts: float, seen: list[list[int]] | None = None) -> dict:
    """Cameras along x that look at points 10 units away; every camera sees all of them unless told."""
    xyz = np.c_[np.random.default_rng(0).uniform(-0.2, 0.2, (30, 2)), np.full(30, 10.0)]
    views = list(range(len(shifts)))
    tracks = seen or [views] * 30
    return {
        "cam_from_world": np.stack([turned(0.0, (s, 0, 0)) for s in shifts]),
        "xyz": xyz,
        "obs_ptr": np.cumsum([0] + [len(t) for t in tracks]),
        "obs_view": np.array([v for t in tracks for v in t]),
    }


def test_views_near_the_best_angle_come_first() -> None:
    """Shifts that make 5, 15, 3 and 40 degrees."""
    given = scene(0.0, *(10 * np.tan(np.radians([5, 15, 3, 40]))))
    assert sources.rank_sources(**given)[0].tolist() == [1, 2, 3, 4]
    assert sources.rank_sources(**given, count=2, references=[0])[0].tolist() == [1, 2]
    assert sources.rank_sources(**given, best_angle=15)[0].tolist()[0] == 2


@pytest.mark.parametrize(
    "changes,name",
    [({"references": [-1]}, "references"), ({"references": [3]}, "references"),
     ({"obs_view": np.full(90, 3)}, "obs_view"), ({"obs_ptr": np.arange(30)}, "obs_ptr"),
     ({"obs_ptr": np.arange(31)}, "obs_ptr"), ({"xyz": np.full((30, 3), np.nan)}, "xyz"),
     ({"cam_from_world": np.full((3, 3, 4), np.nan)}, "cam_from_world")],
)  # fmt: skip
def test_rankings_refuse(changes, name) -> None:
    given = scene(0.0, 1.0, 2.0)
    with pytest.raises(ValueError, match=name):
        sources.rank_sources(**{**given, **changes})
    square = np.concatenate([given["cam_from_world"], np.tile([[[0.0, 0, 0, 1]]], (3, 1, 1))], 1)
    plain = sources.rank_sources(**given)
    for found, expected in zip(
        sources.rank_sources(**{**given, "cam_from_world": square}), plain, strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_the_score_is_the_sum_over_shared_points() -> None:
    """Many points at a worse angle beat few at the best one; a view without shared points is no source."""
    shifts = 10 * np.tan(np.radians([0, 5, 12, 20]))
    seen = [[0, 1, 2]] * 5 + [[0, 2]] * 20 + [[3]] * 5
    ranked = sources.rank_sources(**scene(*shifts, seen=seen))
    assert ranked[0].tolist() == [2, 1] and ranked[3].tolist() == []


def test_views_without_parallax_come_last() -> None:
    seen = [[0, 1, 2]] * 2 + [[0, 1]] * 28
    given = scene(0.0, 10 * np.tan(np.radians(0.9)), 10 * np.tan(np.radians(45)), seen=seen)
    assert sources.rank_sources(**given)[0].tolist() == [2, 1]
    assert sources.rank_sources(**given, least_angle=0.5)[0].tolist() == [1, 2]
    given = scene(0.0, 0.0, 1.0)  # the same place twice: an angle of zero, no crash
    assert sources.rank_sources(**given)[0].tolist() == [2, 1]


@pytest.mark.parametrize(("far", "expected"), [(18, [1, 2]), (26, [2, 1])])
def test_three_quarters_of_the_angles_decide_about_parallax(far: int, expected: list[int]) -> None:
    """View 1 sees its points at 2 degrees, and `far` of 30 at 0.8."""
    given = scene(0.0, 10 * np.tan(np.radians(2)), 100.0)  # view 2: angles far too wide
    given["xyz"][:far, 2] = 25
    assert sources.rank_sources(**given)[0].tolist() == expected


def test_sources_of_a_colmap_model(shared) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    folder = shared / "data" / "fountain_P11" / "sparse"
    found = sources.sources_from_model(folder)
    names = [f"{i:04d}.jpg" for i in range(11)]
    assert list(found) == names and all(len(v) == 7 and k not in v for k, v in found.items())
    for i, name in enumerate(names):  # the photos go around the fountain in order
        assert all(abs(int(other[:4]) - i) <= 3 for other in found[name][:2])
    model = pycolmap.Reconstruction(str(folder))
    assert sources.sources_from_model(model) == found
    gone = next(image for image in model.images.values() if image.name == names[3])
    model.deregister_frame(gone.frame_id)
    without = sources.sources_from_model(model)
    assert names[3] not in without and all(names[3] not in v for v in without.values())


def test_folders_that_are_no_model(tmp_path) -> None:
    pytest.importorskip("pycolmap")
    with pytest.raises(ValueError, match="no such model folder"):
        sources.sources_from_model(tmp_path / "none")
    with pytest.raises(ValueError, match="cannot read"):
        sources.sources_from_model(tmp_path)
