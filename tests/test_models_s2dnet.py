# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""S2DNet: taps and signs, levels, matching with both filters, descriptors, loss, HPatches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

import pyloc_core as pc  # noqa: E402
from pyloc_core import models  # noqa: E402
from pyloc_core.models.s2dnet.matching import match_points, pixel_cross_entropy  # noqa: E402


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights; the statistics of the normalisation are those of a picture, as after training:
    with others the raw dot product is largest wherever the features are longest."""
    return calibrated(models.create("s2dnet", seed=5), picture(99, 64, 80))


def calibrated(model: Any, image: np.ndarray) -> Any:
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(model.preprocess(image))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def picture(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3))
    for cells in (5, 12, 30):
        coarse = torch.from_numpy(rng.normal(size=(1, 3, cells, cells)))
        out += F.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    return (127 + 40 * out).clip(0, 255).astype(np.uint8)


def test_levels_have_the_published_sizes_and_signs(model: Any) -> None:
    image = picture(1, 97, 133)
    with torch.inference_mode():
        pixels = model.preprocess(image)
        sizes = [tuple(level.shape) for level in model(pixels)]
        assert sizes == [(1, 128, 97, 133), (1, 128, 24, 33), (1, 128, 6, 8)]
        inner: list[float] = []
        for layer in model.adaptation_layers.values():
            layer[0].register_forward_pre_hook(lambda _, x: inner.append(float(x[0].min())))
        model(pixels)
    assert inner[0] == 0 and inner[1] == 0 and inner[2] < 0, "two taps after the ReLU, one before"
    for layer in model.adaptation_layers.values():
        layer[0]._forward_pre_hooks.clear()


def test_descriptors_are_read_between_the_cells(model: Any) -> None:
    image = picture(2, 48, 64)
    levels = model.levels(image)
    rng = np.random.default_rng(3)
    xy = rng.uniform([0, 0], [64, 48], (40, 2))
    read = model.sparse(image, xy)
    for level, found in zip(levels, read):
        h, w = level.shape[1:]
        at = np.clip(pc.map_from_image(xy, (48, 64), (h, w)), 0, [w - 1, h - 1])
        low = np.minimum(np.floor(at).astype(int), [w - 2, h - 2])
        f = at - low
        values = level.numpy().astype(float)
        x, y = low.T
        expected = (
            values[:, y, x] * (1 - f[:, 0]) * (1 - f[:, 1])
            + values[:, y, x + 1] * f[:, 0] * (1 - f[:, 1])
            + values[:, y + 1, x] * (1 - f[:, 0]) * f[:, 1]
            + values[:, y + 1, x + 1] * f[:, 0] * f[:, 1]
        ).T
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    sparse = model.sparse_descriptor(image, xy)
    assert sparse.shape == (40, 384)
    np.testing.assert_array_equal(sparse, torch.cat(read, 1).numpy())
    assert model.sparse_descriptor(image, np.zeros((0, 2))).shape == (0, 384)


def test_two_levels_of_the_localizer_correlate_like_the_maps(model: Any) -> None:
    """The dot product with resized features is the resized dot product."""
    image = picture(4, 48, 64)
    other = models.create("s2dnet", fine_levels=(0, 1, 2)).load_official(model.state_dict())
    coarse, fine = other.dense(image)
    assert coarse.values.shape == (256, 12, 16) and coarse.covers == (48, 64)
    assert fine.values.shape == (384, 48, 64)
    xy = np.array([[20.5, 17.5], [40.5, 30.5]])
    descriptors = [d.numpy() for d in model.sparse(image, xy)]
    stacked = np.einsum("nd,dhw->nhw", np.concatenate(descriptors, 1), fine.values)
    levels = [level.numpy() for level in model.levels(image)]
    np.testing.assert_allclose(
        stacked, pc.correlation_maps(descriptors, levels), rtol=1e-3, atol=1e-2 * stacked.std()
    )
    odd_coarse, odd_fine = model.dense(picture(4, 41, 50))
    assert odd_coarse.covers == odd_fine.covers == (48, 64), "continued to a multiple of 16"
    described = model.describe(image, xy, (1.0, 1.4))
    assert [d.shape for d in described] == [(2, 2, 256), (2, 2, 128)]
    np.testing.assert_allclose(described[1][:, 0], descriptors[0], rtol=1e-4, atol=1e-5)


def test_matching_finds_a_shift_and_filters_what_is_not_there(model: Any) -> None:
    big = picture(6, 80, 112)
    first, second = big[8:72, 16:96], big[:64, :80]  # a point moves by (+16, +8)
    rng = np.random.default_rng(7)
    xy = np.floor(rng.uniform([4, 4], [76, 60], (60, 2))) + 0.5
    inside = (xy + [16, 8] < [76, 60]).all(1)
    outside = (xy + [16, 8] > [84, 68]).any(1)
    found = match_points(model, first, xy, second, min_probability=0.0)
    error = np.linalg.norm(found.xy - (xy + [16, 8]), axis=1)
    assert (error[inside] <= 1).mean() > 0.45, "one pixel in 5120 each, were it chance"
    assert found.valid[inside & (error <= 1)].mean() > 0.3
    assert found.valid[outside].mean() < found.valid[inside].mean()
    # The filters only drop; without the way back more remain.
    free = match_points(model, first, xy, second, min_probability=0.0, max_cyclic=None)
    np.testing.assert_array_equal(free.xy, found.xy)
    assert free.valid.all() and found.valid.sum() < len(xy)
    strict = match_points(model, first, xy, second, min_probability=0.999)
    assert not (strict.valid & ~found.valid).any() and strict.valid.sum() <= found.valid.sum()
    none = match_points(model, first, xy[:0], second)
    assert none.xy.shape == (0, 2) and none.valid.shape == (0,)


def dense_cross_entropy(descriptors: Any, levels: Any, targets: Any, size: Any) -> Any:
    """The definition: all maps stored, softmax over all pixels, the rounded pixel read."""
    maps = sum(
        F.interpolate(torch.einsum("nd,dhw->nhw", d, f)[None], size, mode="bilinear")[0]
        for d, f in zip(descriptors, levels)
    )
    flat = torch.log_softmax(maps.flatten(1), dim=1)
    x, y = torch.floor(targets + 0.5).long().T
    return -flat[torch.arange(len(targets)), y * size[1] + x].mean()


def test_cross_entropy_is_the_definition_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(8)
    shapes = [(6, 16, 20), (5, 4, 5), (4, 1, 2)]
    levels = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    descriptors = [torch.randn(9, s[0], generator=generator, dtype=torch.float64) for s in shapes]
    targets = torch.rand(9, 2, generator=generator, dtype=torch.float64) * torch.tensor(
        [19.0, 15.0]
    )
    results = []
    for loss in (
        lambda d, f: pixel_cross_entropy(d, f, targets),
        lambda d, f: dense_cross_entropy(d, f, targets, (16, 20)),
    ):
        leaves = [x.clone().requires_grad_() for x in (*descriptors, *levels)]
        value = loss(leaves[:3], leaves[3:])
        results.append((value, torch.autograd.grad(value, leaves)))
    assert results[0][0].item() == pytest.approx(results[1][0].item(), abs=1e-10)
    for a, b in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)
    half = pixel_cross_entropy(
        descriptors[:1], levels[:1], torch.tensor([[3.5, 2.49]]).repeat(9, 1)
    )
    exact = pc.nre_loss(descriptors[0], levels[0], torch.tensor([[4.0, 2.0]]).double().repeat(9, 1))
    assert float(half) == pytest.approx(float(exact.mean()), abs=1e-12)
    with pytest.raises(ValueError, match="2 descriptors for 3 levels"):
        pixel_cross_entropy(descriptors[:2], levels, targets)


def test_a_step_of_training_lowers_the_loss() -> None:
    model = models.create("s2dnet", seed=9).train()
    pixels = torch.cat([model.preprocess(picture(seed, 32, 32)) for seed in (10, 11)])
    pixels[1] = 0.3 * pixels[0] + 0.7 * pixels[1]  # the same place, hardly to be recognised
    grid = np.stack(np.meshgrid(np.arange(4, 28, 6), np.arange(4, 28, 6)), -1).reshape(-1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    values = []
    for _ in range(3):
        maps = model(pixels)
        descriptors = model.read([level[0] for level in maps], grid + 0.5, (32, 32))
        loss = pixel_cross_entropy(
            descriptors, [level[1] for level in maps], torch.from_numpy(grid).float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert values[-1] < values[0]


def test_mean_matching_accuracy_of_the_network(model: Any, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    from pyloc_core.localization import hpatches

    path = tmp_path / "i_room"
    path.mkdir()
    image = picture(11, 64, 80)
    cv2.imwrite(str(path / "1.ppm"), image)
    cv2.imwrite(str(path / "2.ppm"), (image * 0.9).astype(np.uint8))
    np.savetxt(path / "H_1_2", np.eye(3))
    result = hpatches.mean_matching_accuracy(
        tmp_path,
        lambda first, xy, second: match_points(model, first, xy, second, min_probability=0.0),
        keypoints=lambda image: hpatches.corners(image, 40),
    )
    assert result["mma"]["all"][0] > 0.8 and result["matches_per_pair"] > 10
