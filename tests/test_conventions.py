# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Coordinates, cameras and poses, against OpenCV, pycolmap and SciPy where these are installed."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core.camera import as_camera, camera_native_args
from pyloc_core.pose import as_cam_from_world

CAMERAS = {
    "SIMPLE_PINHOLE": (500.0, 320.5, 239.0),
    "PINHOLE": (500.0, 510.0, 320.5, 239.0),
    "SIMPLE_RADIAL": (500.0, 320.5, 239.0, -0.07),
    "RADIAL": (500.0, 320.5, 239.0, -0.07, 0.02),
    "OPENCV": (500.0, 510.0, 320.5, 239.0, -0.07, 0.02, 1e-3, -2e-3),
    "FULL_OPENCV": (500.0, 510.0, 320.5, 239.0, 0.2, 0.02, 1e-3, -2e-3, 0.01, 0.25, 0.03, 0.004),
    "SIMPLE_RADIAL_FISHEYE": (500.0, 320.5, 239.0, -0.03),
    "RADIAL_FISHEYE": (500.0, 320.5, 239.0, -0.03, 0.01),
    "OPENCV_FISHEYE": (500.0, 510.0, 320.5, 239.0, -0.03, 0.01, -2e-3, 4e-4),
}


def points_in_front(rng: np.random.Generator, count: int = 200) -> np.ndarray:
    xy = rng.uniform(-0.6, 0.6, (count, 2))
    z = rng.uniform(1, 20, (count, 1))
    return np.hstack([xy * z, z])


def random_pose(rng: np.random.Generator) -> np.ndarray:
    R = pl.rotation_from_quaternion(rng.standard_normal(4))
    return np.hstack([R, rng.standard_normal((3, 1))])


@pytest.mark.parametrize("model", CAMERAS)
def test_projection_matches_pycolmap(model: str, rng: np.random.Generator) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    theirs = pycolmap.Camera(model=model, width=640, height=480, params=CAMERAS[model])
    ours = pl.Camera.from_pycolmap(theirs)
    assert ours == pl.Camera(model, 640, 480, CAMERAS[model])
    points = points_in_front(rng)
    xy, valid = ours.project(points)
    assert valid.all()
    np.testing.assert_allclose(xy, theirs.img_from_cam(points), atol=1e-8)


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_projection_matches_opencv(model: str, rng: np.random.Generator) -> None:
    cv2 = pytest.importorskip("cv2")
    camera = pl.Camera(model, 640, 480, CAMERAS[model])
    points = points_in_front(rng)
    distortion = np.array(CAMERAS[model][4:])
    project = cv2.projectPoints if model == "OPENCV" else cv2.fisheye.projectPoints
    zero = np.zeros(3)
    theirs = project(points[:, None], zero, zero, camera.K, distortion)[0].reshape(-1, 2)
    np.testing.assert_allclose(camera.project(points)[0], theirs, atol=1e-6)


@pytest.mark.parametrize("model", CAMERAS)
def test_unproject_inverts_project(model: str, rng: np.random.Generator) -> None:
    camera = pl.Camera(model, 640, 480, CAMERAS[model])
    points = points_in_front(rng)
    bearings = camera.unproject(camera.project(points)[0])
    expected = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(bearings, expected, atol=1e-9)


@pytest.mark.parametrize("model", CAMERAS)
def test_resized_camera_commutes_with_the_map_conversion(
    model: str, rng: np.random.Generator
) -> None:
    """Projecting with a resized camera is projecting, then scaling pixels: half-pixel terms included."""
    camera = pl.Camera(model, 640, 480, CAMERAS[model])
    points = points_in_front(rng)
    xy = camera.project(points)[0]
    size = (61, 90)
    small = camera.resized(size).project(points)[0]
    np.testing.assert_allclose(small - 0.5, pl.map_from_image(xy, camera.size, size), atol=1e-9)
    _kind, fx, fy, cx, cy, *_ = camera_native_args(camera, size)
    K_map = pl.scale_intrinsics(camera.K, camera.size, size)
    np.testing.assert_allclose(
        [fx, fy, cx, cy], [K_map[0, 0], K_map[1, 1], K_map[0, 2], K_map[1, 2]]
    )


def test_points_behind_the_camera_are_masked() -> None:
    camera = pl.Camera("OPENCV", 640, 480, CAMERAS["OPENCV"])
    xy, valid = camera.project([[0.0, 0.0, 2.0], [0.1, 0.2, -1.0], [0.0, 0.0, 0.0]])
    assert valid.tolist() == [True, False, False]
    assert np.isnan(xy[1:]).all() and np.isfinite(xy[0]).all()


def test_map_coordinates_of_corners() -> None:
    """The image's corner (0, 0) is the map's corner (-0.5, -0.5); the first pixel centre maps inside."""
    np.testing.assert_allclose(pl.map_from_image([0, 0], (480, 640), (60, 80)), [-0.5, -0.5])
    np.testing.assert_allclose(pl.map_from_image([640, 480], (480, 640), (60, 80)), [79.5, 59.5])
    np.testing.assert_allclose(pl.map_from_image([4, 4], (480, 640), (60, 80)), [0, 0])
    back = pl.image_from_map(
        pl.map_from_image([[3.3, 7.1]], (480, 640), (59, 81)), (480, 640), (59, 81)
    )
    np.testing.assert_allclose(back, [[3.3, 7.1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("PINHOL", 640, 480, (1, 1, 0, 0)), "did you mean PINHOLE"),
        (("PINHOLE", 640, 480, (1, 1, 0)), "takes 4 parameters"),
        (("PINHOLE", 0, 480, (1, 1, 0, 0)), "positive"),
        (("PINHOLE", 640, 480, (-1, 1, 0, 0)), "focal lengths"),
        (("PINHOLE", 640, 480, (np.nan, 1, 0, 0)), "finite"),
    ],
)
def test_bad_cameras_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pl.Camera(*arguments)


def test_camera_from_other_forms() -> None:
    camera = pl.Camera("PINHOLE", 640, 480, CAMERAS["PINHOLE"])
    assert as_camera(camera.to_dict()) == camera
    assert pl.Camera.from_matrix(camera.K, 640, 480) == camera
    with pytest.raises(TypeError, match="camera must be"):
        as_camera(3)
    with pytest.raises(ValueError, match="needs params"):
        as_camera({"model": "PINHOLE", "width": 1, "height": 1})
    with pytest.raises(ValueError, match="positive focal"):
        camera_native_args([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]])


def test_pose_functions_agree_with_each_other(rng: np.random.Generator) -> None:
    a, b = random_pose(rng), random_pose(rng)
    X = rng.standard_normal((20, 3))
    composed = pl.compose_poses(a, b)
    np.testing.assert_allclose(
        pl.transform_points(composed, X),
        pl.transform_points(a, pl.transform_points(b, X)),
        atol=1e-12,
    )
    np.testing.assert_allclose(pl.compose_poses(a, pl.inverse_pose(a)), np.eye(3, 4), atol=1e-12)
    np.testing.assert_allclose(pl.transform_points(a, pl.camera_center(a)[None]), 0, atol=1e-12)


def test_pose_error_is_exact_for_tiny_angles(rng: np.random.Generator) -> None:
    pose = random_pose(rng)
    angle = 1e-7
    turn = np.array([[1, -angle, 0], [angle, 1, 0], [0, 0, 1.0]])
    turned = pl.compose_poses(np.hstack([turn, np.zeros((3, 1))]), pose)
    degrees, centre = pl.pose_error(turned, pose)
    assert degrees == pytest.approx(np.degrees(angle), rel=1e-4)
    assert centre < 1e-6


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_quaternions_match_scipy(order: str, rng: np.random.Generator) -> None:
    transform = pytest.importorskip("scipy.spatial.transform")
    q = rng.standard_normal((50, 4))
    q[0] = [0, 1, 0, 0]  # a half turn, where trace formulas lose their digits
    R = pl.rotation_from_quaternion(q, order=order)
    xyzw = np.roll(q, -1, axis=1) if order == "wxyz" else q
    np.testing.assert_allclose(R, transform.Rotation.from_quat(xyzw).as_matrix(), atol=1e-12)
    again = pl.rotation_from_quaternion(pl.quaternion_from_rotation(R, order=order), order=order)
    np.testing.assert_allclose(again, R, atol=1e-12)


def test_as_cam_from_world_accepts_and_refuses(rng: np.random.Generator) -> None:
    pose = random_pose(rng)
    four = np.vstack([pose, [0, 0, 0, 1]])
    np.testing.assert_allclose(as_cam_from_world(four), pose, atol=1e-12)
    sloppy = pose.copy()
    sloppy[:, :3] += 1e-5
    cleaned = as_cam_from_world(sloppy)[:, :3]
    np.testing.assert_allclose(cleaned @ cleaned.T, np.eye(3), atol=1e-14)
    with pytest.raises(ValueError, match="not a rotation"):
        as_cam_from_world(np.ones((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        as_cam_from_world(np.full((3, 4), np.nan))
    pycolmap = pytest.importorskip("pycolmap")
    rigid = pycolmap.Rigid3d(pycolmap.Rotation3d(pose[:, :3]), pose[:, 3])
    np.testing.assert_allclose(as_cam_from_world(rigid), pose, atol=1e-12)
