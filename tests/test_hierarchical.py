# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A photo against several clusters of reference images; the first that retrieval names may be wrong."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("safetensors")

from wall_scene import CAMERA, POSES, QUERY, TEXTURES, build, points, render, textures  # noqa: E402

from pyloc_core import Camera, LossMaps, pose_error, score_poses  # noqa: E402
from pyloc_core.localization import Localizer, Map  # noqa: E402
from pyloc_core.localization.agreement import agreement  # noqa: E402
from pyloc_core.localization.covisibility import covisibility_clusters  # noqa: E402

OTHER = textures(10)
FAR = np.array([100.0, 0.0, 0.0])


class Told:
    """A global descriptor that says what the test wants it to say."""

    in_colour = False

    def __init__(self, answers: dict[bytes, Any], name: str = "Told") -> None:
        self.answers, self.name = answers, name

    def global_descriptor(self, image: np.ndarray) -> Any:
        return self.answers[image.tobytes()]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}


def told(similar: list[float], name: str = "Told") -> Told:
    """The eight images of both places are at right angles; the photo has the given inner products."""
    images = [render(p, walls) for walls in (TEXTURES, OTHER) for p in POSES]
    answers = {image.tobytes(): np.eye(8)[i] for i, image in enumerate(images)}
    return Told({**answers, render(QUERY).tobytes(): similar}, name)


def two_places(network: Told) -> dict[str, Map]:
    return {
        "here": build(global_descriptor=network),
        "there": build(walls=OTHER, global_descriptor=network),
    }


def one_frame(network: Any = None, *, split: bool = False) -> Map:
    """Both places in one frame of reference, 100 units apart; or, with `split`, the first place twice:
    two of its images see the one half of its points, two the other."""
    xyz = points()
    moved = POSES.copy()
    moved[:, :, 3] -= POSES[:, :, :3] @ FAR
    if split:
        view = np.where(np.arange(len(xyz))[:, None] % 2, [0, 1], [2, 3]).ravel()
        return Map.from_arrays(
            xyz, 2 * np.arange(len(xyz) + 1), view, image_names=list("abcd"), cameras=[CAMERA] * 4,
            cam_from_world=POSES, images=[render(p) for p in POSES], global_descriptor=network,
        )  # fmt: skip
    view = np.concatenate([np.tile(np.arange(4), len(xyz)), np.tile(np.arange(4, 8), len(xyz))])
    return Map.from_arrays(
        np.concatenate([xyz, xyz + FAR]), 4 * np.arange(2 * len(xyz) + 1), view,
        image_names=list("abcdefgh"), cameras=[CAMERA] * 8,
        cam_from_world=np.concatenate([POSES, moved]),
        images=[render(p, walls) for walls in (TEXTURES, OTHER) for p in POSES],
        global_descriptor=network,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> dict[str, Map]:
    return {"here": build(), "there": build(walls=OTHER)}


@pytest.fixture(scope="module")
def merged(parts: dict[str, Map]) -> Map:
    return Map.merge(parts)


def test_every_photo_is_found_in_its_own_scene(parts: dict[str, Map], merged: Map) -> None:
    localizer = Localizer(merged)
    for scene, walls in (("here", TEXTURES), ("there", OTHER)):
        photo = render(QUERY, walls)
        found = localizer.localize_detailed(photo, CAMERA)
        assert found.estimate.success, found.estimate.reason
        assert found.scene == found.estimate.scene == scene
        assert pose_error(found.estimate.cam_from_world, QUERY)[0] < 0.15
        assert {merged.scenes[s] for s in merged.point_scene[found.point_indices]} == {scene}
        # All eight images are looked up and make two clusters: as good as the map of the scene alone.
        assert len(found.clusters) == 2 and found.clusters[found.chosen].scene == scene
        alone = Localizer(parts[scene]).localize(photo, CAMERA)
        assert pose_error(alone.cam_from_world, found.estimate.cam_from_world)[0] < 0.05
        wrong = found.clusters[1 - found.chosen]
        assert (
            not wrong.estimate.success and wrong.estimate.reason and np.isneginf(wrong.union_gain)
        )
    timings = found.estimate.timings
    assert timings["cluster"] > 0 and timings["choose"] > 0
    assert sum(v for k, v in timings.items() if k != "total") == pytest.approx(timings["total"])


def test_a_wrong_first_image_is_made_good_by_the_other_cluster() -> None:
    similar = [0.3, 0.2, 0.1, 0.0, 0.6, 0.5, 0.4, 0.35]  # all of the wrong place come first
    network, photo = told(similar), render(QUERY)
    merged = Map.merge(two_places(network))
    localizer = Localizer(merged, global_descriptor=network)
    found = localizer.localize_detailed(photo, CAMERA)
    assert found.scene == "here" and found.chosen == 1
    assert [c.views.tolist() for c in found.clusters] == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert pose_error(found.estimate.cam_from_world, QUERY)[0] < 0.15
    # Without the clusters it is lost.
    for options in ({"max_clusters": 1}, {"top_k": 1, "num_views": 1}):
        lost = Localizer(merged, global_descriptor=network, **options).localize(photo, CAMERA)
        assert not lost.success or lost.scene == "there"
    same = localizer.localize(photo, CAMERA, num_threads=3)
    assert np.array_equal(same.cam_from_world, found.estimate.cam_from_world)


def test_places_in_one_frame_are_told_apart_by_the_gain_on_all_points() -> None:
    network = told([0.3, 0.2, 0.1, 0.0, 0.6, 0.5, 0.4, 0.35])
    model = one_frame(network)
    found = Localizer(model, global_descriptor=network).localize_detailed(render(QUERY), CAMERA)
    assert found.estimate.success and pose_error(found.estimate.cam_from_world, QUERY)[0] < 0.15
    assert found.views.tolist() == [0, 1, 2, 3] and found.chosen == 1
    # Refined on the points of both.
    assert len(found.point_indices) == sum(c.num_points for c in found.clusters) > 500
    assert len(found.coarse_maps) == len(found.fine_maps) == len(found.point_indices)
    near = found.point_indices < len(model.xyz) // 2
    assert found.estimate.inlier_probability[near].mean() > 0.5
    assert found.estimate.inlier_probability[~near].mean() < 0.1


def test_clusters_of_one_place_are_compared_and_then_joined() -> None:
    model, photo = one_frame(split=True), render(QUERY)
    localizer = Localizer(model)
    found = localizer.localize_detailed(photo, CAMERA)
    assert len(found.clusters) == 2 and all(c.estimate.success for c in found.clusters)
    gains = [c.union_gain for c in found.clusters]
    assert found.chosen == int(np.argmax(gains))
    for cluster, gain in zip(found.clusters, gains):
        assert 100 < cluster.num_points < len(found.point_indices)
        # What was summed: the gains of all maps at the cluster's pose, the best of each cell.
        pose = cluster.estimate.cam_from_world
        over = found.coarse_camera
        xy, front = over.project(found.xyz @ pose[:, :3].T + pose[:, 3])
        size = found.coarse_maps.size
        at = np.where(front[:, None], xy, np.nan) * [size[1] / over.width, size[0] / over.height]
        each = found.coarse_maps.log_cardinality - found.coarse_maps.evaluate(at - 0.5)
        cells: dict[tuple[int, ...], float] = {}
        for cell, one in zip(np.nan_to_num(np.rint(at - 0.5)), each):
            cells[tuple(cell)] = max(cells.get(tuple(cell), 0.0), float(one))
        assert gain == pytest.approx(sum(cells.values()))
        assert gain < each.sum()
    assert len(found.point_indices) == sum(c.num_points for c in found.clusters)
    assert (np.diff(found.point_indices) > 0).all()
    assert pose_error(found.estimate.cam_from_world, QUERY)[0] < 0.15
    assert found.coarse.gain >= max(gains)


def test_agreement_counts_cells_and_not_points() -> None:
    """A camera far away sees everything in one cell; if that cell looks like everything, all agree."""
    count, size = 400, (30, 40)
    camera = Camera("PINHOLE", 320, 240, (300.0, 300.0, 160.0, 120.0))
    rng = np.random.default_rng(4)
    xyz = np.column_stack(
        [rng.uniform(-2, 2, count), rng.uniform(-1.5, 1.5, count), np.full(count, 5.0)]
    )
    far = np.column_stack([np.eye(3), [0.0, 0.0, 1e4]])
    near = np.eye(3, 4)
    dense = np.full((count, *size), np.log(1201.0), np.float32)
    dense[:, 14:17, 18:22] -= 4  # the hub
    right = np.rint(np.asarray(camera.project(xyz)[0]) / 8 - 0.5).astype(int)
    # Every other map has its true cell as well, no better than the hub.
    for n in range(0, count, 2):
        x, y = right[n]
        if 0 <= x < size[1] and 0 <= y < size[0]:
            dense[n, y, x] -= 4
    maps = LossMaps.from_dense(dense)
    hub, true = agreement(maps, xyz, camera, far), agreement(maps, xyz, camera, near)
    assert hub.points == count and hub.cells <= 4 and hub.collapsed
    assert not true.collapsed and true.cells > 100
    total = [-np.ravel(score_poses(maps, xyz, camera, pose[None]))[0] for pose in (far, near)]
    assert total[0] > total[1]  # by points the wrong pose wins
    assert true.gain > 20 * hub.gain
    # Beyond the left border is not the end of the row above.
    dense = np.full((2, *size), np.log(1201.0), np.float32)
    dense[:, :, [0, -1]] = 1.0
    edge = LossMaps.from_dense(dense)
    beside = np.array([[-3.0, 84.0], [316.0, 76.0]])  # left of row 10; the last cell of row 9
    rays = np.column_stack([(beside - [160.0, 120.0]) / 300, np.ones(2)])
    gains = [agreement(edge[r], rays[r], camera, near).gain for r in ([0], [1], [0, 1])]
    assert 0 < gains[0] < gains[1] and gains[2] == pytest.approx(gains[0] + gains[1])
    behind = np.column_stack([np.diag([-1.0, 1.0, -1.0]), np.zeros(3)])
    assert agreement(maps, xyz, camera, behind) == (0.0, 0, 0)


def test_one_cluster_is_the_same_as_no_clusters(parts: dict[str, Map]) -> None:
    model, photo = parts["here"], render(QUERY)
    found = Localizer(model).localize_detailed(photo, CAMERA)
    assert len(found.clusters) == 1 and found.chosen == 0
    assert 0 < found.clusters[0].union_gain < found.clusters[0].estimate.gain
    wide = Localizer(model, top_k=100, max_clusters=9, min_shared_points=50)
    again = wide.localize(photo, CAMERA)
    assert np.array_equal(again.cam_from_world, found.estimate.cam_from_world)
    assert again.gain == found.estimate.gain and again.scene == ""


def test_a_photo_of_nowhere_says_what_was_tried(merged: Map) -> None:
    image = np.random.default_rng(5).integers(0, 255, (240, 320)).astype(np.uint8)
    found = Localizer(merged).localize_detailed(image, CAMERA)
    assert not found.estimate.success and found.chosen == -1 and found.scene == ""
    assert "none of 2 clusters gives a pose" in found.estimate.reason
    assert all(c.estimate.reason and not c.estimate.success for c in found.clusters)
    assert np.isfinite(found.estimate.cam_from_world).all()


def test_a_prior_belongs_to_a_scene(merged: Map) -> None:
    localizer, photo = Localizer(merged), render(QUERY)
    with pytest.raises(ValueError, match="scene is needed with a prior"):
        localizer.localize(photo, CAMERA, POSES[2])
    with pytest.raises(ValueError, match=r"no scene 'heer'; did you mean 'here'"):
        localizer.localize(photo, CAMERA, scene="heer")
    found = localizer.localize_detailed(photo, CAMERA, POSES[2], scene="here")
    assert found.estimate.success and found.views[0] == 2 and found.scene == "here"
    elsewhere = localizer.localize_detailed(photo, CAMERA, scene="there")
    assert not elsewhere.estimate.success
    assert {c.scene for c in elsewhere.clusters} == {"there"}


def test_images_that_see_no_point_take_no_place_of_a_cluster(merged: Map) -> None:
    points = int((merged.point_scene == 0).sum())
    last = int(merged.obs_ptr[points])
    blind = replace(  # of the second scene images are left and no points
        merged, xyz=merged.xyz[:points], point_ids=merged.point_ids[:points],
        point_scene=merged.point_scene[:points], obs_ptr=merged.obs_ptr[: points + 1],
        obs_view=merged.obs_view[:last], obs_xy=merged.obs_xy[:last], coarse=merged.coarse[:last],
    )  # fmt: skip
    for walls in (TEXTURES, OTHER):
        found = Localizer(blind).localize_detailed(render(QUERY, walls), CAMERA)
        assert [c.scene for c in found.clusters] == ["here"]
        assert found.estimate.success == (walls is TEXTURES)


def test_calls_from_many_threads_give_the_bits_of_one(merged: Map, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    merged.with_index().save(tmp_path)
    photos = [render(pose, walls) for pose in (QUERY, POSES[1]) for walls in (TEXTURES, OTHER)]
    for model in (merged, Map.load(tmp_path)):
        one = [Localizer(model).localize(photo, CAMERA, num_threads=1) for photo in photos]
        shared = pickle.loads(pickle.dumps(Localizer(model)))
        with ThreadPoolExecutor(8) as pool:
            many = list(pool.map(partial(shared.localize, camera=CAMERA), 2 * photos))
        for a, b in zip(2 * one, many):
            assert a.scene == b.scene and a.gain == b.gain
            assert np.array_equal(a.cam_from_world, b.cam_from_world)


def test_a_chain_of_images_is_one_cluster() -> None:
    views = np.random.default_rng(1).permutation(200)
    tracks = np.column_stack([views[:-1], views[1:]])
    model = Map(
        xyz=np.zeros((199, 3)), point_ids=np.arange(199), obs_ptr=2 * np.arange(200),
        obs_view=tracks.ravel().astype(np.int32), obs_xy=np.zeros((0, 2)),
        coarse=np.zeros((0, 1, 1)), fine=None, image_names=["x"] * 200, cameras=[CAMERA] * 200,
        cam_from_world=np.zeros((0, 3, 4)), images=[], vocabulary=np.zeros((0, 1)),
        global_descriptors=np.zeros((200, 0)), descriptor={},
    )  # fmt: skip
    (found,) = covisibility_clusters(model, np.arange(200), 1)
    assert found.tolist() == list(range(200))


def test_clusters_are_connected_components(rng: np.random.Generator) -> None:
    for _ in range(30):
        views, count = int(rng.integers(1, 9)), int(rng.integers(0, 40))
        tracks = [
            np.sort(rng.permutation(views)[: rng.integers(1, min(3, views) + 1)])
            for _ in range(count)
        ]
        model = Map(
            xyz=np.zeros((count, 3)), point_ids=np.arange(count),
            obs_ptr=np.cumsum([0] + [len(t) for t in tracks]),
            obs_view=np.concatenate([np.zeros(0, int), *tracks]).astype(np.int32),
            obs_xy=np.zeros((0, 2)), coarse=np.zeros((0, 1, 1)), fine=None,
            image_names=["x"] * views, cameras=[CAMERA] * views, cam_from_world=np.zeros((0, 3, 4)),
            images=[], vocabulary=np.zeros((0, 1)), global_descriptors=np.zeros((views, 0)),
            descriptor={},
        )  # fmt: skip
        order = rng.permutation(views)
        least = int(rng.integers(1, 4))
        seen = [{p for p, t in enumerate(tracks) if v in t} for v in range(views)]
        groups = [{int(v)} for v in order]
        for a in range(views):
            for b in range(a):
                if len(seen[a] & seen[b]) >= least:
                    joined = set().union(*(g for g in groups if a in g or b in g))
                    groups = [g for g in groups if not g & joined] + [joined]
        found = covisibility_clusters(model, order, least)
        assert sorted(map(sorted, groups)) == sorted(sorted(g.tolist()) for g in found)
        ranks = [[order.tolist().index(v) for v in g] for g in found]
        assert all(r == sorted(r) for r in ranks)
        assert [(-len(r), r[0]) for r in ranks] == sorted((-len(r), r[0]) for r in ranks)


def test_global_descriptors_of_others(parts: dict[str, Map], tmp_path: Path) -> None:
    network = told([0.9, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0])
    model = build(global_descriptor=network)
    assert not len(model.vocabulary) and model.global_descriptor == {"name": "Told"}
    model.save(tmp_path)
    loaded, photo = Map.load(tmp_path), render(QUERY)
    found = Localizer(loaded, global_descriptor=network, top_k=1, num_views=1)
    assert found.localize_detailed(photo, CAMERA).views.tolist() == [0]
    with pytest.raises(ValueError, match="built with the global descriptor 'Told': pass it"):
        Localizer(loaded)
    with pytest.raises(ValueError, match="the map's global descriptor is"):
        Localizer(loaded, global_descriptor=told([1.0] * 8, name="Another"))
    with pytest.raises(ValueError, match="built without a global descriptor"):
        Localizer(parts["here"], global_descriptor=network)
    for bad, words in (([np.nan] * 8, "NaN"), ([[1.0]], r"shape \(D,\)"), ([1.0], "1 dimensions")):
        with pytest.raises(ValueError, match=words):
            Localizer(loaded, global_descriptor=told(bad)).localize(photo, CAMERA)  # type: ignore[arg-type]
    # One that asks for luma is given it, of photos in colour as well.
    colour = np.repeat(photo[..., None], 3, 2)
    assert found.localize_detailed(colour, CAMERA).views.tolist() == [0]
    torch = pytest.importorskip("torch")
    tensor = told(torch.tensor([0.0, 2.0, 0, 0, 0, 0, 0, 0]))  # type: ignore[arg-type]
    assert (
        Localizer(loaded, global_descriptor=tensor).localize_detailed(photo, CAMERA).views[0] == 1
    )
