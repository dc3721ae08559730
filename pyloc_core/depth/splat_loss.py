# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth and normals of a multi-view network as a regulariser of Gaussian splats (thesis, section 9.2.4).

The terms follow what the works it cites do: depth with weights that fall at image edges (Turkulainen et
al., "DN-Splatter", 2024), normals of the rendered depth with weights of confidence (Chen et al.,
"VCR-GauS", 2024). Where they leave the unit of length in the loss, logarithms are used here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pyloc_core import _array_kinds, _arrays, _tensors
from pyloc_core._checks import number
from pyloc_core._extras import require
from pyloc_core.depth.normals import normals_from_depth

# DN-Splatter's weights of its depth and normal terms.
DEPTH_WEIGHT, NORMAL_WEIGHT = 0.2, 0.1


class SplatLoss(NamedTuple):
    """Scalar tensors: `total = depth_weight * depth + normal_weight * normal`."""

    total: Any
    depth: Any
    normal: Any


def splat_loss(
    depth: Any,
    prior_depth: Any,
    K: Any,
    *,
    normals: Any = None,
    prior_normals: Any = None,
    confidence: Any = None,
    valid: Any = None,
    image: Any = None,
    scale_invariant: bool = False,
    depth_weight: float = DEPTH_WEIGHT,
    normal_weight: float = NORMAL_WEIGHT,
) -> SplatLoss:
    """What a rendered depth map (and normals) costs against those of a depth network.

    depth term: weighted mean of |ln d - ln d* - m|, m = 0, or with `scale_invariant` the weighted mean of
    ln d - ln d* in the image (Eigen et al. 2014, Eq. 1), so that a factor between the two costs nothing.
    normal term: weighted mean of |n - n*|_1 + 1 - n . n*. Weights: the confidence; in the depth term also
    exp(-|grad I|), the mean over channels of both differences of neighbours, where an image is given.

    Args:
        depth: (..., H, W) rendered depth, tensor; gradients flow to it.
        prior_depth: (..., H, W) depth of the network. Pixels where either is 0, negative or not finite do
            not count.
        K: (3, 3) or (..., 3, 3) intrinsics in map coordinates; see `scale_intrinsics`.
        normals: (..., 3, H, W) rendered unit normals in the camera's frame, turned towards it; gradients
            flow to them. None: the normals of the rendered depth.
        prior_normals: (..., 3, H, W); None: those of the prior depth.
        confidence: (..., H, W), not negative; None for 1. Where it is NaN or infinite the pixel does not
            count.
        valid: (..., H, W) bool, pixels that count besides.
        image: (..., channels, H, W) in [0, 1], for weights that fall at its edges; None for none. Beside
            values that are not finite a pixel does not count in the depth term.
        scale_invariant: for networks that do not know the scale of the scene.
        depth_weight, normal_weight: of the terms, not negative.

    Returns:
        SplatLoss. A term without any pixel is 0, with a gradient of 0. The prior, the confidence and the
        image get no gradient.

    Raises:
        ValueError: shapes, weights, on the CPU a negative confidence; MissingExtra without torch.
    """
    torch = require("torch", "the regularisation of splats")
    if not _arrays.is_torch(depth):
        raise TypeError(f"depth must be a tensor, got {type(depth).__name__}")
    weights = (number("depth_weight", depth_weight), number("normal_weight", normal_weight))
    d = _tensors.check(depth, "depth", dtype=("float32", "float64"))
    if d.ndim < 2 or min(d.shape[-2:]) < 2:
        raise ValueError(f"depth must have shape (..., H, W), at least 2 x 2, got {tuple(d.shape)}")
    prior = _like(prior_depth, "prior_depth", d, ())
    weight = torch.ones_like(d) if confidence is None else _like(confidence, "confidence", d, ())
    use = _positive(d.detach()) & _positive(prior)
    if valid is not None:
        use = use & _like(valid, "valid", d, ()).bool()
    kind = _array_kinds.kind_of(d)
    kind.refuse(weight < 0, "confidence must not be negative")
    weight = torch.where(use & weight.isfinite(), weight, 0)
    edges = None if image is None else _edge_weight(_image(image, d))
    depth_term = _depth_term(d, prior, weight if edges is None else weight * edges, scale_invariant)
    rendered, known = _normals(normals, "normals", d, K, use)
    expected, prior_known = _normals(prior_normals, "prior_normals", d, K, use, of=prior)
    normal_term = _normal_term(
        rendered, expected.detach(), torch.where(known & prior_known, weight, 0)
    )
    return SplatLoss(weights[0] * depth_term + weights[1] * normal_term, depth_term, normal_term)


def _positive(x: Any) -> Any:
    return (x > 0) & (x < float("inf"))


def _like(x: Any, name: str, depth: Any, between: tuple[int, ...]) -> Any:
    """A constant of the depth's dtype, device and shape, with axes between the leading ones and H, W."""
    shape = (*depth.shape[:-2], *between, *depth.shape[-2:])
    dtype = str(depth.dtype).removeprefix("torch.")
    tensor = _tensors.check(x, name, dtype=dtype, device=depth.device).detach()
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return tensor


def _image(image: Any, depth: Any) -> Any:
    if getattr(image, "ndim", 0) != depth.ndim + 1:
        raise ValueError(f"image must have shape {(*depth.shape[:-2], 'C', *depth.shape[-2:])}")
    return _like(image, "image", depth, (int(image.shape[-3]),))


def _mean(value: Any, weight: Any) -> Any:
    """Weighted mean; 0 where there is no weight."""
    total = weight.sum()
    return (weight * value).sum() / total.where(total > 0, 1)


def _depth_term(depth: Any, prior: Any, weight: Any, scale_invariant: bool) -> Any:
    counts = weight > 0
    # 1 where nothing counts: its logarithm and the gradient of it stay finite.
    difference = depth.where(counts, 1).log() - prior.where(counts, 1).log()
    if scale_invariant:
        sums = weight.sum((-2, -1), keepdim=True)
        middle = (weight * difference).sum((-2, -1), keepdim=True) / sums.where(sums > 0, 1)
        difference = (difference - middle).where(counts, 0)
    return _mean(difference.abs(), weight)


def _normals(
    given: Any, name: str, depth: Any, K: Any, use: Any, of: Any = None
) -> tuple[Any, Any]:
    if given is None:
        return normals_from_depth(depth if of is None else of, K, valid=use)  # type: ignore[no-any-return]
    dtype = str(depth.dtype).removeprefix("torch.")
    tensor = _tensors.check(given, name, dtype=dtype, device=depth.device)
    shape = (*depth.shape[:-2], 3, *depth.shape[-2:])
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    finite = tensor.detach().isfinite().all(-3)
    return tensor.where(finite.unsqueeze(-3), 0), finite & use


def _normal_term(normals: Any, expected: Any, weight: Any) -> Any:
    cost = (normals - expected).abs().sum(-3) + 1 - (normals * expected).sum(-3)
    return _mean(cost, weight)


def _edge_weight(image: Any) -> Any:
    """(..., H, W) exp(-|grad I|): differences to the right and lower neighbour, 0 beyond the border."""
    torch = _arrays.torch_module()
    right = torch.nn.functional.pad((image[..., 1:] - image[..., :-1]).abs(), (0, 1))
    below = torch.nn.functional.pad((image[..., 1:, :] - image[..., :-1, :]).abs(), (0, 0, 0, 1))
    weight = (-(right + below).mean(-3)).exp()
    return weight.where(weight.isfinite(), 0)
