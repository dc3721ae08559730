# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Files: truncated, damaged, missing or of another kind. A ValueError that names the file, or what was
saved; never a crash, never another exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from public_calls import arrays_in, loss_maps_problem

import pyloc_core as pl


def damaged(content: bytes, seed: int) -> list[bytes]:
    """Truncations at many places, and single flipped bytes."""
    rng = np.random.default_rng(seed)
    cuts = [0, 1, 7, 8, 9, len(content) // 2, len(content) - 1, *rng.integers(0, len(content), 10)]
    forms = [content[: int(cut)] for cut in cuts]
    # The front of a file holds its structure: most flips go there.
    places = [*rng.integers(0, min(len(content), 600), 40), *rng.integers(0, len(content), 20)]
    for place in places:
        flipped = bytearray(content)
        flipped[int(place)] ^= 1 << int(rng.integers(0, 8))
        forms.append(bytes(flipped))
    forms += [b"\x00" * 64, b"\xff" * 64, content + content, b"{}", b'{"a": 1}']
    return forms


def refuses_or_reads(load: Any, path: Path) -> Any:
    try:
        return load(path)
    except ValueError as error:
        assert str(error)
        return None


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_loss_maps(suffix, tmp_path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    maps = pl.LossMaps.from_dense(loss_maps_problem(5)[0])
    path = tmp_path / f"maps{suffix}"
    maps.save(path)
    again = pl.LossMaps.load(path)
    for a, b in zip(arrays_in(maps), arrays_in(again), strict=True):
        np.testing.assert_array_equal(a, b)
    content = path.read_bytes()
    for form in damaged(content, 1):
        path.write_bytes(form)
        found = refuses_or_reads(pl.LossMaps.load, path)
        if found is not None:  # what is accepted must be safe to use
            found.dense()
            found.evaluate(np.zeros((len(found), 2)))
    with pytest.raises((ValueError, OSError)):
        pl.LossMaps.load(tmp_path / f"missing{suffix}")


def small_map() -> Any:
    localization = pytest.importorskip("pyloc_core.localization")
    pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 255, (120, 160), dtype=np.uint8) for _ in range(2)]
    camera = pl.Camera("PINHOLE", 160, 120, (150.0, 150.0, 80.0, 60.0))
    points = np.c_[rng.uniform(-0.4, 0.4, (12, 2)), rng.uniform(2, 3, 12)]
    poses = np.stack([np.eye(3, 4), np.eye(3, 4)])
    poses[1, 0, 3] = 0.1
    return localization.Map.from_arrays(
        points, np.arange(0, 25, 2), np.tile([0, 1], 12), image_names=["a", "b"],
        cameras=[camera, camera], cam_from_world=poses, images=pictures,
    )  # fmt: skip


def test_damaged_map_folders(tmp_path) -> None:
    localization = pytest.importorskip("pyloc_core.localization")
    pytest.importorskip("safetensors")
    folder = tmp_path / "map"
    small_map().save(folder)
    assert len(localization.Map.load(folder).image_names) == 2
    for name in ("map.json", "map.safetensors"):
        path = folder / name
        content = path.read_bytes()
        for form in damaged(content, 3):
            path.write_bytes(form)
            refuses_or_reads(localization.Map.load, folder)
        path.unlink()
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            localization.Map.load(folder)
        path.write_bytes(content)
    with pytest.raises(ValueError, match="no such"):
        localization.Map.load(tmp_path / "nowhere")


def test_colmap_models_that_are_none(tmp_path) -> None:
    localization = pytest.importorskip("pyloc_core.localization")
    pycolmap = pytest.importorskip("pycolmap")
    images = tmp_path / "images"
    images.mkdir()
    with pytest.raises(ValueError):
        localization.Map.build(pycolmap.Reconstruction(), images, progress=False)
    with pytest.raises(ValueError):
        localization.Map.build(tmp_path / "nowhere", images, progress=False)
    model = tmp_path / "sparse"
    model.mkdir()
    for content in (b"", b"\x01", b"\xff" * 40):
        for name in ("cameras.bin", "images.bin", "points3D.bin"):
            (model / name).write_bytes(content)
        with pytest.raises(ValueError):
            localization.Map.build(model, images, progress=False)
