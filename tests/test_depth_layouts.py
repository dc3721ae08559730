# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of the depth benchmarks' layouts on small sets written for the purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from depth_folders import (
    K,
    plane_view,
    save_depth_png,
    save_image,
    save_pfm,
    save_text,
    write_kitti,
    write_mvsnet,
    write_scannet,
)

from pyloc_core.depth import layouts
from pyloc_core.depth.layouts import true_depth


def assert_reprojects(sample: layouts.DepthSample, depth: np.ndarray, tolerance: float) -> None:
    """The reference's depth, moved into each source, hits what the source sees there: poses, intrinsics
    and depths of the set fit together, which no single one of them can show."""
    first = sample.reference
    rows, columns = (np.linspace(2, n - 3, 5).astype(int) for n in depth.shape)
    x, y = (a.ravel() for a in np.meshgrid(columns, rows))
    rays = np.linalg.solve(first.K, np.stack([x + 0.5, y + 0.5, np.ones(len(x))]))
    R, t = first.cam_from_world[:, :3], first.cam_from_world[:, 3:]
    world = R.T @ (rays * depth[y, x] - t)
    truth = np.einsum("i,in->n", [0.1, 0.2, -1.0], world)
    np.testing.assert_allclose(truth, -5.0, atol=tolerance)  # on the plane
    for source in sample.sources:
        local = source.cam_from_world[:, :3] @ world + source.cam_from_world[:, 3:]
        u, v = (source.K @ local)[:2] / local[2]
        inside = (u > 3) & (u < 29) & (v > 3) & (v < 21)
        assert inside.any()
        there = source.read()[v[inside].astype(int), u[inside].astype(int)].astype(float)
        here = first.read()[y[inside], x[inside]].astype(float)
        assert abs(there - here).mean() < 35  # the pictures show the same, up to a pixel


def test_scannet(tmp_path) -> None:
    write_scannet(tmp_path / "scene0000_00")
    write_scannet(tmp_path / "scene0001_00", 3)
    found = layouts.read_scannet(tmp_path)
    assert len(found) == 15 and found.name == "scannet"
    sample = found.samples[5]
    assert sample.name == "scene0000_00/5"  # by the number: 10 comes after 9
    names = [source.name.split("/")[1] for source in sample.sources]
    assert names == ["4", "6", "3", "7", "2", "8", "9"]
    np.testing.assert_allclose(sample.reference.K, K)
    np.testing.assert_allclose(sample.read_depth(), plane_view(5).depth, atol=6e-4)
    assert_reprojects(sample, sample.read_depth(), 1e-3)
    assert [s.name for s in found.samples[0].sources] == [f"scene0000_00/{i}" for i in (1, 2, 3, 4)]
    one = layouts.read_depth_layout("scannet", tmp_path / "scene0001_00", step=2)
    assert [s.name for s in one] == ["scene0001_00/0", "scene0001_00/2"]
    with pytest.raises(ValueError, match="step"):
        layouts.read_scannet(tmp_path, step=0)
    keyframes = layouts.read_scannet(tmp_path, scenes=["scene0000_00"], choose="keyframes", count=2)
    assert {s.name for s in keyframes.samples[5].sources} == {"scene0000_00/4", "scene0000_00/6"}


def test_scannet_frames_without_a_pose(tmp_path) -> None:
    write_scannet(tmp_path)
    save_text(tmp_path / "pose" / "6.txt", np.full((4, 4), -np.inf))
    sample = layouts.read_scannet(tmp_path).samples[5]
    assert [s.path.stem for s in sample.sources][:2] == ["4", "7"]
    with pytest.raises(FileNotFoundError):
        layouts.read_scannet(tmp_path / "color")


def test_dtu_blendedmvs_and_tanks_and_temples(tmp_path) -> None:
    write_mvsnet(tmp_path / "dtu" / "scan1", unit=1e-3)
    write_mvsnet(
        tmp_path / "blended" / "5aa5", images="blended_images", depths="rendered_depth_maps"
    )
    write_mvsnet(tmp_path / "tanks")
    sets = [
        layouts.read_dtu(tmp_path / "dtu"),
        layouts.read_blendedmvs(tmp_path / "blended", count=2),
        layouts.read_tanks_and_temples(tmp_path / "tanks", scenes=["."]),
    ]
    for found in sets:
        sample = found.samples[2]
        assert len(found) == 5 and sample.depth_range == pytest.approx((2, 9))
        np.testing.assert_allclose(sample.reference.K, K)
        np.testing.assert_allclose(
            sample.reference.cam_from_world, plane_view(2).cam_from_world, atol=1e-12
        )
        np.testing.assert_allclose(sample.read_depth(), plane_view(2).depth, rtol=1e-6)
        assert_reprojects(sample, sample.read_depth(), 1e-4)
    assert [s.path.stem[-1] for s in sets[0].samples[2].sources] == ["1", "3", "0", "4"]
    assert len(sets[1].samples[2].sources) == 2
    shifted = layouts.read_mvsnet(tmp_path / "tanks", centres_at_integers=True).samples[0]
    np.testing.assert_allclose(shifted.reference.K - K, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def test_depth_maps_that_come_apart(tmp_path) -> None:
    write_mvsnet(tmp_path / "dtu" / "scan1", depths="../../Depths_raw/scan1")
    for i in range(5):
        old = tmp_path / "Depths_raw" / "scan1" / f"{i:08d}.pfm"
        old.rename(old.with_name(f"depth_map_{i:04d}.pfm"))
    found = layouts.read_mvsnet(tmp_path / "dtu", depths="../../Depths_raw/{scene}")
    np.testing.assert_allclose(found.samples[3].read_depth(), plane_view(3).depth)


def test_views_without_depth_are_sources_alone(tmp_path) -> None:
    write_mvsnet(tmp_path)
    for i in (0, 1, 3, 4):
        (tmp_path / "depths" / f"{i:08d}.pfm").unlink()
    np.savez(tmp_path / "depths" / "00000001.npz", plane_view(1).depth)
    found = layouts.read_mvsnet(tmp_path)
    assert [s.reference.path.stem for s in found] == ["00000001", "00000002"]
    np.testing.assert_allclose(found.samples[0].read_depth(), plane_view(1).depth)


def test_kitti_poses_come_from_the_inertial_unit(tmp_path) -> None:
    drive = write_kitti(tmp_path / "raw", tmp_path / "depth")
    found = layouts.read_kitti(tmp_path / "raw", tmp_path / "depth", offsets=(-1, 1, 2))
    assert len(found) == 5
    sample = found.samples[2]
    assert [s.name for s in sample.sources] == [f"{drive}/{i:010d}" for i in (1, 3, 4)]
    np.testing.assert_allclose(sample.reference.K, K)
    np.testing.assert_allclose(sample.read_depth(), plane_view(2).depth, atol=1 / 256)
    # The car drives along the optical axis: the next camera stands 1.5 m further, not turned.
    first, second = sample.reference.cam_from_world, sample.sources[1].cam_from_world
    np.testing.assert_allclose(second[:, :3], first[:, :3], atol=1e-12)
    np.testing.assert_allclose(second[:, 3] - first[:, 3], [0, 0, -1.5], atol=2e-4)
    # The first inertial pose is the origin; the camera's place in it is the calibrations' chain:
    # north is the car's way, so up is -y of the camera and east its x.
    start = found.samples[0].reference.cam_from_world
    np.testing.assert_allclose(start[:, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-9)
    np.testing.assert_allclose(
        start[:, 3],
        np.array([-0.3, 0.8, -0.8]) + [0, -0.08, -0.27] + [-0.06, 0, 0], atol=1e-9,
    )  # fmt: skip
    photo = sample.reference.path.rename(sample.reference.path.with_suffix(".jpg"))
    again = layouts.read_kitti(tmp_path / "raw", tmp_path / "depth", frames=[(drive, 2)])
    assert again.samples[0].reference.path == photo
    chosen = layouts.read_kitti(tmp_path / "raw", tmp_path / "depth", frames=[(drive, 4)])
    assert [s.name for s in chosen] == [f"{drive}/{4:010d}"]
    with pytest.raises(FileNotFoundError, match="0000000009"):
        layouts.read_kitti(tmp_path / "raw", tmp_path / "depth", frames=[(drive, 9)])
    (tmp_path / "raw" / "2011_09_26" / "calib_imu_to_velo.txt").write_text("R: 1 0 0\nT: 0 0 0\n")
    with pytest.raises(ValueError, match="R must hold 9"):
        layouts.read_kitti(tmp_path / "raw", tmp_path / "depth")


def write_eth3d(scene: Path) -> None:
    """Five views of points on the plane as a COLMAP text model with THIN_PRISM_FISHEYE cameras."""
    pycolmap = pytest.importorskip("pycolmap")
    views = [plane_view(i) for i in range(5)]
    params = f"{K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]} 0 0 0 0 0 0 0 0"
    calibration = scene / "dslr_calibration_jpg"
    save_text(calibration / "cameras.txt", f"1 THIN_PRISM_FISHEYE 32 24 {params}")
    rng = np.random.default_rng(0)
    xy = rng.uniform(-0.8, 0.8, (40, 2)) + [0.4, 0]
    world = np.c_[xy, (5 + xy @ [0.1, 0.2])]
    images, tracks = [], [[] for _ in world]
    for i, view in enumerate(views):
        name = f"dslr_images/DSC_{i:04d}.JPG"
        q = pycolmap.Rotation3d(view.cam_from_world[:, :3]).quat  # x y z w
        pose = " ".join(repr(float(v)) for v in (q[3], *q[:3], *view.cam_from_world[:, 3]))
        local = world @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
        uv = (local @ K.T)[:, :2] / local[:, 2:]
        images += [f"{i + 1} {pose} 1 {name}",
                   " ".join(f"{u!r} {v!r} {p + 1}" for p, (u, v) in enumerate(uv.tolist()))]  # fmt: skip
        for p in range(len(world)):
            tracks[p].append(f"{i + 1} {p}")
        save_image(scene / "images" / name, view.image)
        depth = np.where(np.arange(32) < 3, np.inf, view.depth).astype("<f4")
        (scene / "ground_truth_depth" / "dslr_images").mkdir(parents=True, exist_ok=True)
        (scene / "ground_truth_depth" / name).write_bytes(depth.tobytes())
    save_text(calibration / "images.txt", *images)
    save_text(calibration / "points3D.txt", *(
        f"{p + 1} {' '.join(map(repr, at.tolist()))} 9 9 9 0.1 {' '.join(tracks[p])}"
        for p, at in enumerate(world)
    ))  # fmt: skip


def test_eth3d(tmp_path) -> None:
    write_eth3d(tmp_path / "courtyard")
    found = layouts.read_eth3d(tmp_path)
    assert [s.name for s in found] == [f"courtyard/DSC_{i:04d}.JPG" for i in range(5)]
    sample = found.samples[2]
    np.testing.assert_allclose(sample.reference.K, K)
    np.testing.assert_allclose(
        sample.reference.cam_from_world, plane_view(2).cam_from_world, atol=1e-9
    )
    depth = sample.read_depth()
    assert (depth[:, :3] == 0).all()
    np.testing.assert_array_equal(depth[:, 3:], plane_view(2).depth[:, 3:])
    assert_reprojects(sample, plane_view(2).depth, 1e-5)
    assert {s.name[-8] for s in sample.sources} == {"0"} and len(sample.sources) == 4
    gone = tmp_path / "courtyard" / "ground_truth_depth" / "dslr_images" / "DSC_0002.JPG"
    gone.write_bytes(b"1234")
    with pytest.raises(ValueError, match="1 values"):
        sample.read_depth()
    gone.unlink()
    assert len(layouts.read_eth3d(tmp_path / "courtyard", count=2)) == 4
    with pytest.raises(FileNotFoundError, match="no image"):
        layouts.read_eth3d(tmp_path / "courtyard" / "images")


def test_depth_files(tmp_path) -> None:
    depth = np.array([[1.5, np.nan, 0.25], [-1.0, np.inf, 8.0]], np.float32)
    expected = np.array([[1.5, 0, 0.25], [0, 0, 8]], np.float32)
    for order in "<>":
        save_pfm(tmp_path / "a.pfm", depth, order)
        np.testing.assert_array_equal(true_depth.read_true_depth(tmp_path / "a.pfm"), expected)
    np.save(tmp_path / "a.npy", depth)
    np.testing.assert_array_equal(true_depth.read_true_depth(tmp_path / "a.npy", 2.0), 2 * expected)
    save_depth_png(tmp_path / "a.png", expected, 256)
    np.testing.assert_array_equal(true_depth.read_png_depth(tmp_path / "a.png", 256), expected)


@pytest.mark.parametrize(
    "file,content,what",
    [("a.pfm", b"PF\n2 2\n-1\n" + bytes(48), "one channel"),
     ("a.pfm", b"Pf\n2 2\n-1\n" + bytes(12), "12 bytes"),
     ("a.pfm", b"", "one channel"), ("a.tif", b"", "ending")],
)  # fmt: skip
def test_damaged_depth_files(tmp_path, file, content, what) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=what):
        true_depth.read_true_depth(tmp_path / file)
    with pytest.raises(FileNotFoundError, match=r"b\.pfm"):
        true_depth.read_true_depth(tmp_path / "b.pfm")
    save_image(tmp_path / "eight.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="16 bit"):
        true_depth.read_true_depth(tmp_path / "eight.png")


@pytest.mark.parametrize("file", ["pair.txt", "cams/00000003_cam.txt"])
def test_damaged_text_files(tmp_path, file) -> None:
    write_mvsnet(tmp_path)
    (tmp_path / file).write_text("4 words that are none")
    with pytest.raises(ValueError, match=file.split("/")[-1]):
        layouts.read_mvsnet(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises((FileNotFoundError, ValueError)):
        layouts.read_mvsnet(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'scannet'"):
        layouts.read_depth_layout("scanet", tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("425 2.5 192 935", (425, 935)),
        ("425 2.5 193", (425, 905)),
        ("425 2.5", None),
        ("0 1 5 9", None),
    ],
)
def test_the_range_of_a_camera_file(tmp_path, line, expected) -> None:
    """Near, interval, number of planes and far; or without far; or without both."""
    write_mvsnet(tmp_path / "room")
    for file in (tmp_path / "room" / "cams").glob("*.txt"):
        file.write_text("\n".join([*file.read_text().splitlines()[:-1], line]) + "\n")
    for sample in layouts.read_mvsnet(tmp_path):
        assert sample.depth_range == (None if expected is None else pytest.approx(expected))
