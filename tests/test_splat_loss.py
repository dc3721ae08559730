# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The depth and normal terms that regularise splats: values, gradients, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyloc_core.depth.normals import normals_from_depth
from pyloc_core.depth.splat_loss import splat_loss

torch = pytest.importorskip("torch")

K = torch.tensor([[40.0, 0, 5.0], [0, 38.0, 4.0], [0, 0, 1]], dtype=torch.float64)
SHAPE = (2, 7, 9)


def depth_of(seed: int, spread: float = 0.1) -> Any:
    draw = np.random.default_rng(seed).normal(0, spread, SHAPE)
    return torch.from_numpy(2 * np.exp(draw))


def test_terms_are_the_means_of_the_definition() -> None:
    depth, prior = depth_of(0), depth_of(1)
    confidence = torch.from_numpy(np.random.default_rng(2).uniform(0, 1, SHAPE))
    loss = splat_loss(depth, prior, K, confidence=confidence, depth_weight=2.0, normal_weight=3.0)
    w, d, p = (x.numpy() for x in (confidence, depth, prior))
    assert loss.depth.item() == pytest.approx((w * abs(np.log(d / p))).sum() / w.sum())
    n, m = normals_from_depth(d, K.numpy())[0], normals_from_depth(p, K.numpy())[0]
    cost = abs(n - m).sum(1) + 1 - (n * m).sum(1)
    assert loss.normal.item() == pytest.approx((w * cost).sum() / w.sum())
    assert loss.total.item() == pytest.approx(2 * loss.depth.item() + 3 * loss.normal.item())


def test_what_costs_nothing() -> None:
    depth = depth_of(0)
    assert splat_loss(depth, depth, K).total.item() == pytest.approx(0, abs=1e-12)
    factor = torch.tensor([3.0, 0.2]).double()[:, None, None]  # another scale in each image
    assert splat_loss(factor * depth, depth, K).depth.item() > 1
    assert splat_loss(factor * depth, depth, K, scale_invariant=True).total.item() == pytest.approx(
        0, abs=1e-12
    )
    assert splat_loss(depth, depth_of(1), K, scale_invariant=True).depth.item() > 0.05


def test_the_unit_of_length_does_not_matter() -> None:
    one = splat_loss(depth_of(0), depth_of(1), K)
    for found, expected in zip(
        splat_loss(100 * depth_of(0), 100 * depth_of(1), K), one, strict=True
    ):
        assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("scale_invariant", [False, True])
@pytest.mark.parametrize("own_normals", [False, True])
def test_gradients(scale_invariant, own_normals) -> None:
    depth, prior = depth_of(0).requires_grad_(), depth_of(1)
    confidence = torch.from_numpy(np.random.default_rng(2).uniform(0, 1, SHAPE))
    image = torch.from_numpy(np.random.default_rng(3).uniform(0, 1, (2, 3, 7, 9)))
    normals = torch.nn.functional.normalize(
        torch.from_numpy(np.random.default_rng(4).normal(size=(2, 3, 7, 9))), dim=1
    ).requires_grad_()
    given: tuple[Any, ...] = (depth, normals) if own_normals else (depth,)
    assert torch.autograd.gradcheck(
        lambda d, n=None: (
            splat_loss(
                d,
                prior,
                K,
                normals=n,
                confidence=confidence,
                image=image,
                scale_invariant=scale_invariant,
            ).total
        ),
        given,
    )


def test_pixels_that_do_not_count_change_nothing_and_get_no_gradient() -> None:
    depth, prior = depth_of(0), depth_of(1)
    valid = torch.ones(SHAPE, dtype=torch.bool)
    valid[0, 2, 3] = valid[1, 5, 5] = False
    expected = splat_loss(depth, prior, K, valid=valid).total.item()
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        for spoiled in (depth, prior):
            changed = spoiled.clone()
            changed[~valid] = bad
            given = (changed, prior) if spoiled is depth else (depth, changed)
            leaf = given[0].clone().requires_grad_()
            loss = splat_loss(leaf, given[1], K).total
            assert loss.item() == pytest.approx(expected)
            loss.backward()
            assert leaf.grad.isfinite().all() and (leaf.grad[~valid] == 0).all()


def test_nothing_to_compare_costs_nothing() -> None:
    depth = depth_of(0).requires_grad_()
    for options in ({}, {"scale_invariant": True}):
        loss = splat_loss(depth, torch.zeros(SHAPE).double(), K, **options)
        loss.total.backward()
        assert loss.total.item() == 0 and (depth.grad == 0).all()


def test_edges_of_the_image_count_less() -> None:
    """A vertical edge: an error there costs exp(-1) of one elsewhere."""
    prior = torch.full((6, 8), 2.0).double()
    image = torch.zeros(1, 6, 8).double()
    image[..., 4:] = 1  # between columns 3 and 4
    costs = []
    for column in (1, 3):
        depth = prior.clone()
        depth[2, column] = 3
        costs.append(splat_loss(depth, prior, K, image=image).depth.item())
    assert costs[1] / costs[0] == pytest.approx(np.exp(-1))


def test_descent_brings_a_noisy_surface_to_the_prior() -> None:
    """Depth alone, and normals alone, which flatten what is bumpy without knowing its depth."""
    x, y = np.meshgrid(np.arange(12.0), np.arange(10.0))
    prior = torch.from_numpy(2 + 0.02 * x + 0.01 * y)
    noisy = prior + torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, prior.shape))
    for options in (
        {"normal_weight": 0.0, "depth_weight": 1.0},
        {"depth_weight": 0.0, "normal_weight": 1.0},
    ):
        depth = noisy.clone().requires_grad_()
        optimiser = torch.optim.Adam([depth], lr=4e-3)
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = splat_loss(depth, prior, K, **options).total
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.35 * losses[0]


def test_weights_that_are_not_finite_do_not_count() -> None:
    """One NaN of a confidence or of a picture must not become the loss."""
    given = {"depth": depth_of(0), "prior_depth": depth_of(1), "K": K}
    confidence, hole = torch.ones_like(given["depth"]), torch.ones_like(given["depth"])
    confidence[..., 2, 3], hole[..., 2, 3] = torch.nan, 0
    assert splat_loss(**given, confidence=confidence) == splat_loss(**given, confidence=hole)
    image = torch.zeros(2, 3, 7, 9)
    image[1, 0, 4, 5] = torch.nan
    assert torch.isfinite(splat_loss(**given, image=image).total)


@pytest.mark.parametrize(
    "changes,name",
    [({"prior_depth": torch.ones(3, 3)}, "prior_depth"), ({"confidence": torch.ones(7, 9)}, "confidence"),
     ({"valid": torch.ones(2, 7)}, "valid"), ({"image": torch.ones(7, 9)}, "image"),
     ({"image": torch.ones(2, 3, 7, 8)}, "image"), ({"normals": torch.ones(2, 2, 7, 9)}, "normals"),
     ({"prior_normals": torch.ones(2, 7, 9)}, "prior_normals"), ({"depth_weight": -1.0}, "depth_weight"),
     ({"K": torch.zeros(3, 3)}, "K"), ({"confidence": -depth_of(2)}, "confidence"),
     ({"depth": torch.ones(1, 9)}, "depth")],
)  # fmt: skip
def test_bad_input(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        splat_loss(**{"depth": depth_of(0), "prior_depth": depth_of(1), "K": K, **changes})
    with pytest.raises(TypeError, match="depth"):
        splat_loss(np.ones((3, 3)), torch.ones(3, 3), K)
