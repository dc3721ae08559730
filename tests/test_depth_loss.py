# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of multi-view depth against plain float64 formulas, written here pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from pyloc_core.training.depth_loss import (  # noqa: E402
    DepthLosses,
    log_depth_loss,
    normals_of_depth,
    sky_loss,
)

H, W = 24, 32
SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
BINOMIAL = np.outer([1.0, 2, 1], [1, 2, 1]) / 16


def window(image: np.ndarray, y: int, x: int, r: int) -> np.ndarray:
    """(2r+1, 2r+1, ...) around a pixel, edges repeated."""
    rows = np.clip(np.arange(y - r, y + r + 1), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(x - r, x + r + 1), 0, image.shape[1] - 1)
    return image[np.ix_(rows, columns)]


def filtered(image: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    r = len(kernel) // 2
    return np.array(
        [[np.tensordot(kernel, window(image, y, x, r), 2) for x in range(0, image.shape[1], stride)]
         for y in range(0, image.shape[0], stride)]
    )  # fmt: skip


def any_in(mask: np.ndarray, r: int, stride: int = 1) -> np.ndarray:
    return np.array(
        [[window(mask, y, x, r).any() for x in range(0, mask.shape[1], stride)]
         for y in range(0, mask.shape[0], stride)]
    )  # fmt: skip


def plain_depth(log_depths, truth, known) -> float:
    total = 0.0
    for i, values in enumerate(log_depths):
        h, w = values.shape
        errors = []
        for y in range(H):
            for x in range(W):
                if known[y, x]:
                    value = values[y * h // H, x * w // W]
                    errors.append(abs(value - math.log(truth[y, x])))
        if len(errors) < 0.5 * H * W:
            errors = sorted(errors)[: len(errors) - int(0.2 * len(errors))]
        total += np.mean(errors) / 2**i if errors else 0.0
    return total


def plain_gradient(log_depth, truth, known) -> float:
    unknown = ~known
    a, b = 1 / (np.exp(log_depth) + 1e-6), 1 / (np.where(known, truth, 1) + 1e-6)
    total = 0.0
    for level in range(4):
        if level:
            a, b = filtered(a, BINOMIAL, 2), filtered(b, BINOMIAL, 2)
            unknown = any_in(unknown, 1, 2)
        use = ~any_in(unknown, 1)
        error = [abs(filtered(a, k) - filtered(b, k))[use] for k in (SOBEL, SOBEL.T)]
        total += np.mean(error) if use.any() else 0.0
    return total


def plain_normals(depth, K) -> np.ndarray:
    line = np.exp(-(np.arange(-2, 3.0) ** 2) / (2 * 2.0**2))
    smooth = filtered(depth, np.outer(line, line) / line.sum() ** 2)
    points = np.array(
        [[smooth[y, x] * (np.linalg.inv(K) @ [x + 0.5, y + 0.5, 1]) for x in range(W)]
         for y in range(H)]
    )  # fmt: skip
    normal = np.cross(filtered(points, SOBEL.T), filtered(points, SOBEL))
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def plain_normal_loss(log_depth, truth, known, K) -> float:
    cosine = (plain_normals(np.exp(log_depth), K) * plain_normals(truth, K)).sum(-1)
    use = ~any_in(~known, 3)
    return float(0.5 * (1 - cosine[use]).mean()) if use.any() else 0.0


def plain_sky(logits, sky, published: bool) -> float:
    total = 0.0
    for i, values in enumerate(logits):
        h, w = values.shape
        each = []
        for y in range(H):
            for x in range(W):
                p = 1 / (1 + math.exp(-values[y * h // H, x * w // W]))
                p = 1 / (1 + math.exp(-p)) if published else p
                each.append(-math.log(p if sky[y, x] else 1 - p))
        total += np.mean(each) / 2**i
    return total


def case(seed: int = 0):
    """Two images: one with a few holes, one of which 70 % is unknown. float64 arrays."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:H, :W]
    truth = np.stack([4 + 0.1 * x + rng.random((H, W)), 2 + 0.2 * y + rng.random((H, W))])
    known = np.stack([rng.random((H, W)) > 0.01, (x < 14) & (y < 18)])
    known[1] &= rng.random((H, W)) > 0.01
    sizes = [(H, W), (H // 2, W // 2), (6, 8), (3, 4)]
    log_depths = [rng.normal(1.5, 0.4, (2, 1, *s)) for s in sizes]
    log_depths[0][:, 0] = np.log(truth) + 0.05 * rng.standard_normal((2, H, W))
    logits = [rng.normal(0, 2, (2, 1, *s)) for s in sizes]
    sky = rng.random((2, H, W)) > 0.7
    K = np.array(
        [[[30.0, 0, 15.5], [0, 31, 12.2], [0, 0, 1]], [[26, 0, 16], [0, 27, 11], [0, 0, 1]]]
    )
    return truth, known, log_depths, logits, sky, K


def tensors(dtype):
    truth, known, log_depths, logits, sky, K = case()
    depth = np.where(known, truth, [[[0.0]], [[np.nan]]])  # both ways to say unknown
    return (
        [torch.tensor(v, dtype=dtype, requires_grad=True) for v in log_depths],
        torch.tensor(depth, dtype=dtype), torch.from_numpy(K),
        [torch.tensor(v, dtype=dtype, requires_grad=True) for v in logits], torch.from_numpy(sky),
    )  # fmt: skip


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_the_formulas(dtype, published):
    truth, known, log_depths, logits, sky, K = case()
    found = DepthLosses(published=published)(*tensors(dtype))
    expected = {"depth": [], "gradient": [], "normals": [], "sky": []}
    for i in range(2):
        finest = log_depths[0][i, 0]
        expected["depth"].append(plain_depth([v[i, 0] for v in log_depths], truth[i], known[i]))
        expected["gradient"].append(plain_gradient(finest, truth[i], known[i]))
        expected["normals"].append(
            plain_normal_loss(finest, np.where(known[i], truth[i], 1), known[i], K[i])
        )
        expected["sky"].append(0.1 * plain_sky([v[i, 0] for v in logits], sky[i], published))
    assert found.keys() == expected.keys()
    for name, values in found.items():
        tolerance = 1e-11 if dtype == torch.float64 else 2e-5
        np.testing.assert_allclose(values.detach().numpy(), expected[name], rtol=tolerance)


@pytest.mark.parametrize("name", ["depth", "gradient", "normals", "sky"])
def test_gradients_in_float32_and_by_differences(name):
    """float64 gradients against differences of the loss, float32 ones against float64."""
    weights = {n: float(n == name) for n in ("depth", "gradient", "normals", "sky")}

    def total(values):
        return DepthLosses(**weights)(*values)[name].sum()

    grads = {}
    for dtype in (torch.float64, torch.float32):
        values = tensors(dtype)
        leaves = [*values[0], *values[3]]
        got = torch.autograd.grad(total(values), leaves, allow_unused=True)
        grads[dtype] = [g for g in got if g is not None]
    for exact, single in zip(grads[torch.float64], grads[torch.float32]):
        assert exact.abs().max() > 0
        assert (single - exact).abs().max() < 1e-4 * exact.abs().max()
    rng = np.random.default_rng(1)
    values = tensors(torch.float64)
    place = values[3] if name == "sky" else values[0]
    (exact,) = torch.autograd.grad(total(values), place[0])
    for _ in range(20):
        at = tuple(int(rng.integers(n)) for n in exact.shape)
        moved = []
        for sign in (1, -1):
            step = place[0].detach().clone()
            step[at] += sign * 1e-6
            other = list(values)
            other[3 if name == "sky" else 0] = [step, *place[1:]]
            moved.append(total(other).item())
        assert float(exact[at]) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_the_worst_fifth_counts_only_where_most_is_known():
    truth = torch.ones(2, 10, 10)
    known = torch.ones(2, 10, 10, dtype=torch.bool)
    known[1, :6] = False  # 40 of 100 known
    log_depth = torch.full((2, 1, 10, 10), 0.5)
    log_depth[:, 0, 9, :8] = 100.0  # eight of them are a fifth of forty
    values = log_depth_loss([log_depth], truth, known)
    assert values.tolist() == pytest.approx([(8 * 100 + 92 * 0.5) / 100, 0.5])
    # Exactly half known is not less than half.
    known[1, 5] = True
    assert log_depth_loss([log_depth], truth, known)[1].item() == pytest.approx((800 + 21) / 50)


def test_an_image_without_truth_costs_nothing_and_has_no_gradient():
    values = tensors(torch.float32)
    values[1][:] = 0
    found = DepthLosses(sky=0)(*values)
    assert "sky" not in found and all((v == 0).all() for v in found.values())
    sum(v.sum() for v in found.values()).backward()
    assert all((v.grad == 0).all() for v in values[0])


def test_unknown_pixels_have_no_influence():
    values = tensors(torch.float64)
    first = DepthLosses()(*values)
    unknown = ~((values[1] > 0) & values[1].isfinite())
    with torch.no_grad():
        values[0][0][:, 0][unknown] += 3.0
    second = DepthLosses()(*values)
    assert unknown.any() and all(torch.equal(first[k], second[k]) for k in first)


def test_normals_of_a_plane_are_its_normal_towards_the_camera():
    K = torch.tensor([[[30.0, 0, 15.5], [0, 31, 12.2], [0, 0, 1]]], dtype=torch.float64)
    normal = torch.tensor([0.3, -0.4, -0.87], dtype=torch.float64)
    normal /= normal.norm()
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    rays = torch.linalg.inv(K[0]) @ torch.stack(
        [x + 0.5, y + 0.5, torch.ones_like(x)]
    ).double().flatten(1)
    depth = (-2.0 / (normal @ rays)).view(1, 40, 50)
    assert (depth > 0).all()
    found = normals_of_depth(depth, K)[0, :, 4:-4, 4:-4]
    # Smoothing a plane's depth, which is not linear in the pixels, bends it a little.
    assert (found * normal[:, None, None]).sum(0).min() > 0.9999


def test_the_published_sky_loss_never_gets_small():
    sky = torch.tensor([[[True, False]]])
    sure = torch.tensor([[[[50.0, -50.0]]]])
    assert sky_loss([sure], sky).item() < 1e-12
    published = sky_loss([sure], sky, published=True).item()
    assert published == pytest.approx((math.log1p(math.exp(-1)) + math.log(2)) / 2, rel=1e-6)
    scales = sky_loss([sure, sure, sure], sky, published=True).item()
    assert scales == pytest.approx(1.75 * published, rel=1e-6)


def test_bad_arguments_are_named():
    values = list(tensors(torch.float32))
    with pytest.raises(ValueError, match="log_depths"):
        DepthLosses()(values[0][1:], *values[1:])
    with pytest.raises(ValueError, match="gradient must be positive"):
        DepthLosses(gradient=-1.0)
    with pytest.raises(ValueError, match="sky_logits"):
        DepthLosses()(*values[:3], (), values[4])
