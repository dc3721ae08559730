# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The project's own network: its geometry, its weights, and its place in maps and localizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("safetensors")

from pyloc_core import models  # noqa: E402
from pyloc_core.localization.features import Descriptor, Features  # noqa: E402
from pyloc_core.models.gradnet.descriptor import LearnedDescriptor, sample  # noqa: E402
from pyloc_core.models.gradnet.network import MARGIN, PATCH, GradNet  # noqa: E402
from pyloc_core.models.gradnet.weights import load_network, save_network  # noqa: E402


def picture(h: int = 72, w: int = 96, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (h // 6, w // 6)).astype(np.float32)
    import cv2

    large = cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)
    return np.clip(large + rng.normal(0, 5, (h, w)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> GradNet:
    """Random trunks and projections: nothing of the geometry may depend on trained weights."""
    made = models.create("gradnet", seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.coarse_level.out.weight.normal_(0, 0.1, generator=generator)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def descriptor(network: GradNet) -> LearnedDescriptor:
    return LearnedDescriptor.of_network(network)


def test_a_patch_gives_the_descriptor_of_its_dense_cell(network: GradNet) -> None:
    gray = network.preprocess(picture())
    padded = torch.nn.functional.pad(gray, (MARGIN,) * 4, mode="replicate")
    fine = network.fine(gray)[0]
    for row, column in ((0, 0), (17, 20), (35, 47)):
        patch = padded[..., 2 * row : 2 * row + PATCH, 2 * column : 2 * column + PATCH]
        torch.testing.assert_close(
            network.patches(patch)[0], fine[:, row, column], atol=1e-5, rtol=0
        )


def test_levels_agree_however_they_are_computed(network: GradNet) -> None:
    gray = network.preprocess(picture())
    coarse, fine = network(gray)
    assert coarse.shape == (1, 128, 9, 12) and fine.shape == (1, 64, 36, 48)
    for level in (coarse, fine):
        torch.testing.assert_close(level.norm(dim=1), torch.ones_like(level[:, 0]))
    torch.testing.assert_close(network.coarse(gray), coarse, atol=1e-5, rtol=0)
    torch.testing.assert_close(network.fine(gray), fine, atol=1e-5, rtol=0)
    for rows in (5, 16):
        again = network.both_levels(gray, rows)
        for a, b in zip(again, (coarse, fine)):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_gain_and_offset_of_the_grey_values_hardly_matter(network: GradNet) -> None:
    image = picture().astype(np.float32)
    before, after = (network.fine(network.preprocess(i)) for i in (image, 0.6 * image + 40))
    assert float((before * after).sum(1).mean()) > 0.99


@pytest.mark.parametrize("shift", [(8, 16), (16, 0)])
def test_features_move_with_the_image(network: GradNet, shift: tuple[int, int]) -> None:
    image = picture(240, 280)
    dy, dx = shift
    whole = network(network.preprocess(image))
    moved = network(network.preprocess(image[dy:, dx:]))
    # Inside what no border reaches: the coarse context pads with zeros.
    for level, other, stride, edge in zip(whole, moved, (8, 2), (9, 10)):
        a = level[..., dy // stride :, dx // stride :][..., edge:-edge, edge:-edge]
        torch.testing.assert_close(a, other[..., edge:-edge, edge:-edge], atol=2e-4, rtol=0)


def test_the_start_is_the_projection_of_a_histogram() -> None:
    from pyloc_core.models.gradnet.start import start_from_components

    made = GradNet()
    images = [made.preprocess(picture(64, 64, seed)) for seed in range(3)]
    start_from_components(made, images)
    weight = made.fine_level.project.weight.detach()
    flat = weight[:, :16].reshape(64, -1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(64), atol=1e-4, rtol=0)
    assert float(weight[:, 16:].abs().max()) == 0
    with torch.no_grad():
        same, other = made.fine(images[0])[0], made.fine(images[1])[0]
    # Components less their mean: descriptors of different places are not all alike.
    assert float((same.flatten(1).T @ other.flatten(1)).mean().abs()) < 0.3


def test_it_is_a_descriptor(descriptor: LearnedDescriptor) -> None:
    assert isinstance(descriptor, Descriptor)
    image = picture(75, 101)  # sides that no stride divides
    levels = descriptor.dense(image)
    assert [level.size for level in levels] == [(10, 13), (38, 51)]
    assert [level.covers for level in levels] == [(80, 104), (76, 102)]
    np.testing.assert_allclose(descriptor.dense_coarse(image).values, levels[0].values, atol=1e-5)
    xy = np.array([[30.0, 40.0], [61.3, 22.8]])
    coarse, fine = descriptor.describe(image, xy, (1.0, 1.4))
    assert coarse.shape == (2, 2, 128) and fine.shape == (2, 2, 64)
    # At scale 1 a point on the centre of a cell has the cell's descriptor: (36, 44) and (37, 45).
    on_cells = descriptor.describe_coarse(image, np.array([[36.0, 44.0]]), (1.0,))[0, 0]
    np.testing.assert_allclose(on_cells, levels[0].values[:, 5, 4], atol=1e-4)
    warped = descriptor.describe_warped(image, np.array([[37.0, 45.0]]), np.eye(2)[None])[0]
    np.testing.assert_allclose(warped, levels[1].values[:, 22, 18], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(warped), 1, rtol=1e-5)
    assert descriptor.describe_warped(image, np.zeros((0, 2)), np.zeros((0, 2, 2))).shape == (0, 64)


def test_reading_between_cells() -> None:
    values = np.zeros((2, 3, 4), np.float32)
    values[0] = np.arange(4)
    values[1] = 1
    level = Features(values, (24, 32))
    found = sample(level, np.array([[12.0, 12.0], [16.0, 12.0]]))
    expected = np.array([[1.0, 1.0], [1.5, 1.0]])
    expected /= np.linalg.norm(expected, axis=1)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_files(tmp_path: Path, network: GradNet) -> None:
    path = tmp_path / "net.safetensors"
    save_network(network, path, note="test")
    again = load_network(path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())
    assert LearnedDescriptor(path).to_dict() == LearnedDescriptor.of_network(network).to_dict()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot read"):
        load_network(path)
    with pytest.raises(ValueError, match="no such weights"):
        load_network(tmp_path / "absent.safetensors")
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, str(path))
    with pytest.raises(ValueError, match="holds no GradNet"):
        load_network(path)
    save_file({"w": torch.ones(2)}, str(path), {"model": "gradnet", "config": "{}"})
    with pytest.raises(
        ValueError, match=r"missing entries .*stem_filters.*unexpected entries \['w'\]"
    ):
        load_network(path)
    with pytest.raises(ValueError, match="fine_channels must be a positive int"):
        GradNet(fine_channels=0)


def test_gradients_reach_every_parameter() -> None:
    pytest.importorskip("skimage")
    from pyloc_core.training import GradNetPairLoss, PairDataset, WarpedPairs
    from pyloc_core.training.pairs import stack

    made = GradNet(seed=1)
    with torch.no_grad():
        made.coarse_level.out.weight.normal_(0, 0.1)
    data = PairDataset([WarpedPairs(size=(96, 96), points=80)], 1, points=16, patch=PATCH)
    losses = GradNetPairLoss(made)(stack([data[0]]))
    assert set(losses) == {"coarse", "fine"}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    groups = GradNetPairLoss(made).parameter_groups()
    assert sum(len(g["params"]) for g in groups) == len(list(made.parameters()))


def test_the_shipped_weights_are_small_and_load() -> None:
    from pyloc_core.models.gradnet.weights import SHIPPED

    assert SHIPPED.stat().st_size < 4e6
    shipped = LearnedDescriptor()
    coarse, fine = shipped.dense(picture())
    assert coarse.values.shape == (128, 9, 12) and fine.values.shape == (64, 36, 48)
    assert shipped.beta == pytest.approx((25.21, 55.0), rel=1e-3)


def test_trained_weights_tell_places_apart_better_than_the_start() -> None:
    """On held-out pairs: other photos, patterns and warps than it was trained on."""
    pytest.importorskip("skimage")
    from pyloc_core.training import GradNetPairLoss, PairDataset, WarpedPairs
    from pyloc_core.training.pairs import stack
    from pyloc_core.training.recipe import fresh_network
    from pyloc_core.training.textures import HELD_OUT_PHOTOS

    source = WarpedPairs(size=(160, 160), photos=HELD_OUT_PHOTOS, strength=0.7)
    data = PairDataset([source], 6, points=48, patch=PATCH, seed=77)
    batch = stack([data[i] for i in range(6)])
    with torch.no_grad():
        start, trained = (GradNetPairLoss(n)(batch) for n in (fresh_network(), load_network()))
    for level in ("coarse", "fine"):
        assert float(trained[level].mean()) < float(start[level].mean()) - 0.1, level


def test_a_map_names_the_descriptor_that_it_was_built_with() -> None:
    """Built, localized without naming the descriptor again, and refused with another."""
    from pyloc_core.camera import Camera
    from pyloc_core.localization import Localizer, Map
    from pyloc_core.localization.rootsift import DenseRootSIFT

    image = picture(240, 320, seed=5)
    camera = Camera("PINHOLE", 320, 240, (300.0, 300.0, 160.0, 120.0))
    rng = np.random.default_rng(0)
    xy = rng.uniform([40, 40], [280, 200], (150, 2))
    depth = rng.uniform(3, 6, 150)
    xyz = np.column_stack([(xy - [160, 120]) / 300 * depth[:, None], depth])
    built = Map.from_arrays(
        xyz, np.arange(151), np.zeros(150, int), image_names=["a"], cameras=[camera],
        cam_from_world=np.eye(3, 4)[None], images=[image], descriptor=LearnedDescriptor(),
    )  # fmt: skip
    found = Localizer(built).localize(image, camera)
    assert found.success
    np.testing.assert_allclose(found.cam_from_world, np.eye(3, 4), atol=5e-3)
    with pytest.raises(ValueError, match="the map was built with"):
        Localizer(built, DenseRootSIFT())


def test_the_model_card_states_the_committed_results() -> None:
    import json

    from pyloc_core.localization.evaluate import summarize
    from pyloc_core.models.gradnet.weights import SHIPPED

    results = Path(__file__).resolve().parents[1] / "benchmarks/results"
    if not results.is_dir():
        pytest.skip("no results beside the tests")
    card = SHIPPED.with_name("README.md").read_text()
    checked = 0
    for name, file in (("dense RootSIFT", "leave_one_out"), ("GradNet", "leave_one_out_learned")):
        for scene, rows in json.loads((results / f"{file}.json").read_text())["scenes"].items():
            found = summarize(rows)
            cells = [
                f"{found[m]['median_rotation_error_deg']:.4f} / "
                f"{found[m]['median_centre_error_over_depth']:.5f}"
                for m in ("nre_coarse", "nre")
            ]
            cells.append(f"{found['nre']['successes']}/{found['nre']['queries']}")
            cells.append(f"{found['nre']['max_rotation_error_deg']:.3f}")
            assert f"| {scene} | {name} | " + " | ".join(cells) + " |" in card
            checked += 1
    assert checked == 6
