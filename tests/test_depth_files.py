# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Files of depth maps and points: what is written is read, by us and by others; damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyloc_core.depth.depth_files import FORMATS, read_depth, write_depth, write_ply

RNG = np.random.default_rng(0)
DEPTH = RNG.uniform(0.5, 40, (5, 7)).astype(np.float32)
DEPTH[1, 2] = 0


@pytest.mark.parametrize("ending", FORMATS)
def test_a_map_comes_back_bit_by_bit(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / f"a.jpg.{ending}"
    write_depth(path, DEPTH)
    found = read_depth(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, DEPTH)


def test_several_channels_are_for_bin_alone(tmp_path: Path) -> None:
    normals = RNG.normal(size=(4, 6, 3)).astype(np.float32)
    write_depth(tmp_path / "n.bin", normals)
    np.testing.assert_array_equal(read_depth(tmp_path / "n.bin"), normals)
    for ending in ("npy", "pfm"):
        with pytest.raises(ValueError, match=r"must be \(H, W\)"):
            write_depth(tmp_path / f"n.{ending}", normals)


def test_colmap_reads_our_bin(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    write_depth(tmp_path / "d.bin", DEPTH)
    read = pycolmap.DepthMap()
    read.read(tmp_path / "d.bin")
    np.testing.assert_array_equal(np.asarray(read.to_array()).reshape(DEPTH.shape), DEPTH)


def test_opencv_reads_our_pfm(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    write_depth(tmp_path / "d.pfm", DEPTH)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "d.pfm"), cv2.IMREAD_UNCHANGED), DEPTH)


def test_big_endian_pfm_of_others_is_read(tmp_path: Path) -> None:
    head = b"Pf\n7 5\n1.0\n"
    (tmp_path / "d.pfm").write_bytes(head + DEPTH[::-1].astype(">f4").tobytes())
    np.testing.assert_array_equal(read_depth(tmp_path / "d.pfm"), DEPTH)


@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_files_are_named(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"d.{ending}"
    with pytest.raises(ValueError, match=f"cannot read the depth map .*d.{ending}"):
        read_depth(path)
    write_depth(path, DEPTH)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"cannot read the depth map .*d.{ending}"):
        read_depth(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=f"cannot read the depth map .*d.{ending}"):
        read_depth(path)


def test_other_endings_and_shapes_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"depth maps are \.npy, \.pfm, \.bin"):
        write_depth(tmp_path / "d.exr", DEPTH)
    with pytest.raises(ValueError, match=r"\(0, 7\)"):
        write_depth(tmp_path / "d.npy", DEPTH[:0])
    np.save(tmp_path / "d.npy", np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="int64"):
        read_depth(tmp_path / "d.npy")


def test_ply_holds_points_normals_colours_and_faces(tmp_path: Path) -> None:
    points = RNG.normal(size=(4, 3)).astype(np.float32)
    normals = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    colours = RNG.integers(0, 255, (4, 3)).astype(np.uint8)
    write_ply(tmp_path / "m.ply", points, normals, colours, np.array([[0, 1, 2], [1, 3, 2]]))
    content = (tmp_path / "m.ply").read_bytes()
    head, body = content.split(b"end_header\n", 1)
    assert b"element vertex 4" in head and b"element face 2" in head
    rows = np.frombuffer(body[: 4 * 27], [("p", "<f4", 3), ("n", "<f4", 3), ("c", "u1", 3)])
    np.testing.assert_array_equal(rows["p"], points)
    np.testing.assert_array_equal(rows["n"], normals)
    np.testing.assert_array_equal(rows["c"], colours)
    faces = np.frombuffer(body[4 * 27 :], [("n", "u1"), ("v", "<i4", 3)])
    assert faces["n"].tolist() == [3, 3] and faces["v"].tolist() == [[0, 1, 2], [1, 3, 2]]
    with pytest.raises(ValueError, match=r"must be \(N, 3\)"):
        write_ply(tmp_path / "m.ply", points, normals[:2], colours)
