# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""`pyloc-core depth --weights`: a network in place of the sweep; and the sweep where there is no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("pycolmap")
pytest.importorskip("typer")

import depth_scene
from typer.testing import CliRunner

import pyloc_core
from pyloc_core import cli_depth
from pyloc_core.cli import app
from pyloc_core.depth.depth_files import read_depth
from pyloc_core.depth.posed_images import PosedImage


def view(name: str, size: tuple[int, int], x: float) -> PosedImage:
    rng = np.random.default_rng(len(name))
    camera = pyloc_core.Camera("PINHOLE", size[1], size[0], (90.0, 91.0, size[1] / 2, size[0] / 2))
    pose = np.column_stack([np.eye(3), [-x, 0.0, 0.0]])
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    return PosedImage(name, image, camera, pose, np.zeros(0, np.int64), np.zeros((0, 3)))


class Recorder:
    """A network that notes what it was given and answers 3 m, with sky on top."""

    def predict(self, *args: Any, **options: Any) -> Any:
        self.args, self.options = args, options
        depth = np.full(args[0].shape[:2], 3.0, np.float32)
        depth[:5] = 0
        return SimpleNamespace(depth_map=lambda: depth)


def test_a_network_gets_images_of_one_size_and_the_cameras_of_each() -> None:
    network = Recorder()
    reference, sources = (
        view("r", (60, 80), 0.0),
        [view("a", (50, 90), 0.2), view("b", (64, 70), -0.4)],
    )
    depth, confidence = cli_depth.NetworkDepth(network)(reference, sources, 1.0, 9.0)
    image, pictures, K, matrices, poses = network.args
    assert image is reference.image and {p.shape for p in pictures} == {(64, 90, 3)}
    np.testing.assert_array_equal(pictures[0][:50, :90], sources[0].image)
    np.testing.assert_array_equal(pictures[0][63], sources[0].image[49])
    np.testing.assert_array_equal(pictures[1][:, 89], sources[1].image[:, 69])
    np.testing.assert_allclose(K, reference.camera.K)
    np.testing.assert_allclose(matrices, [s.camera.K for s in sources])
    np.testing.assert_allclose(poses[:, 0, 3], [-0.2, 0.4], atol=1e-12)
    assert network.options == {"depth_range": (1.0, 9.0)}
    assert depth.shape == (60, 80) and not confidence[:5].any() and (confidence[5:] == 1).all()


@pytest.mark.parametrize(
    "name", ["mvsanywhere_hero", pytest.param("mvsanywhere_dot", marks=pytest.mark.slow)]
)
def test_the_command_runs_mvsanywhere_of_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small network with random weights: the path from the file to the maps, not their quality."""
    torch = pytest.importorskip("torch")
    import mvsanywhere_scene

    from pyloc_core import models

    made = mvsanywhere_scene.small(name)
    torch.save(made.state_dict(), tmp_path / "small.pt")
    create = models.create
    options = mvsanywhere_scene.SMALL
    monkeypatch.setattr(models, "create", lambda chosen: create(chosen, **options))
    sparse, images = depth_scene.write_model(tmp_path)
    done = CliRunner().invoke(
        app,
        ["depth", "--model", str(sparse), "--images", str(images), "--out", str(tmp_path / "out"),
         "--weights", str(tmp_path / "small.pt"), "--max-size", "96", "--sources", "2", "--quiet"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    raw = read_depth(tmp_path / "out" / "raw" / "2.png.npy")
    assert raw.shape == (72, 96) and np.isfinite(raw).all() and raw.max() > 0


def test_without_weights_torch_is_not_needed(tmp_path: Path) -> None:
    sparse, images = depth_scene.write_model(tmp_path)
    program = (
        "import sys\nsys.modules['torch'] = None\nfrom pyloc_core.cli import app\n"
        f"app(['depth', '--model', {str(sparse)!r}, '--images', {str(images)!r}, '--out', "
        f"{str(tmp_path / 'out')!r}, '--quiet', '--max-size', '96'])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(pyloc_core.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=sys.prefix, env=env
    )
    assert done.returncode == 0, done.stderr
    assert read_depth(tmp_path / "out" / "depth" / "2.png.npy").max() > 0


def test_a_mesh_of_exact_depths_lies_on_the_surfaces() -> None:
    try:
        import open3d  # noqa: F401
    except ImportError as error:  # also where a library of the system is missing
        pytest.skip(f"Open3D: {error}")
    from pyloc_core.depth.tsdf_mesh import default_voxel, mesh_of_depths

    maps = depth_scene.exact_maps()
    pictures = [shot.image for shot in depth_scene.shots()]
    mesh = mesh_of_depths(maps, lambda i: pictures[i])
    assert len(mesh.vertices) > 5000 and len(mesh.triangles) > 8000
    assert mesh.triangles.max() < len(mesh.vertices) == len(mesh.normals) == len(mesh.colours)
    scene = depth_scene.rgbd_scene
    y, z = mesh.vertices[:, 1], mesh.vertices[:, 2]
    off = np.minimum.reduce([np.abs(y - scene.WALL), np.abs(y - scene.BOARD), np.abs(z)])
    assert np.median(off) < 0.25 * default_voxel(maps)
    assert mesh.colours.std() > 5
    coarse = mesh_of_depths(maps, lambda i: pictures[i], voxel=3 * default_voxel(maps))
    assert 0 < len(coarse.vertices) < 0.4 * len(mesh.vertices)


def test_meshing_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from pyloc_core._extras import MissingExtra
    from pyloc_core.depth.tsdf_mesh import default_voxel, mesh_of_depths

    maps = depth_scene.exact_maps()[:1]
    empty = [replace(m, depth=np.zeros_like(m.depth)) for m in maps]
    with pytest.raises(ValueError, match="no depth map knows a depth"):
        default_voxel(empty)
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingExtra, match=r"pyloc_core\[mesh\]"):
        mesh_of_depths(maps, lambda i: depth_scene.shots()[i].image)
