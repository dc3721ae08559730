# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth and confidence from a matching volume: the expectation over its planes, and how peaked it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _array_kinds
from pyloc_core._array_kinds import Kind
from pyloc_core._checks import integer, known_name, number

SPACES = ("log", "inverse", "linear")
_FLOATS = ("float32", "float64")


def soft_argmax_depth(
    volume: Any,
    depths: Any,
    *,
    sharpness: float = 1.0,
    space: str = "log",
    window: int | None = None,
    check_finite: bool = False,
) -> Any:
    """The depth expected under a softmax over the planes.

    p_k = exp(s v_k) / sum_j exp(s v_j); depth = g^-1(sum_k p_k g(d_k)), g the logarithm, the inverse or
    the identity. It always lies between the smallest and the largest depth that takes part.

    Args:
        volume: (..., D, H, W) matching scores, high where the plane fits. float32, float64; halves are
            computed in float32.
        depths: (D,), (..., D) or (..., D, H, W), positive, in any order without a window.
        sharpness: s > 0, what the scores are multiplied by (the inverse of a temperature). A dot product
            of features that are not of unit length has no scale of its own.
        space: "log" for the geometric mean (planes of `log_depth_planes` lie evenly in it), "inverse" for
            the harmonic one (disparities), "linear".
        window: planes on each side of the highest one that take part, >= 0; None for all. Two surfaces
            that both fit have their middle expected without a window, where there is no surface.
        check_finite: look at values on a GPU too, which waits for it.

    Returns:
        (..., H, W) depths of the kind of `volume`, float32 or float64. Gradients flow to the volume and
        the depths; the place of the window is held fixed.

    Raises:
        ValueError: shapes, values that are not finite, depths that are not positive, options.

    Sources: Kendall et al., "End-to-End Learning of Geometry and Context for Deep Stereo Regression"
    (2017), Eq. 1, of costs over disparities; the window: Tulyakov, Ivanov, Fleuret, "Practical Deep
    Stereo" (2018), section 3.3.
    """
    known_name("space", space, SPACES)
    reach = None if window is None else integer("window", window, 0)
    kind, volume = _volume(volume, check_finite)
    planes = _depths(kind, depths, volume, check_finite)
    scores = number("sharpness", sharpness, positive=True) * volume
    if reach is not None:
        scores, planes = _window(kind, scores, planes, reach)
    probability = _softmax(kind, scores)
    xp = kind.xp
    if space == "linear":
        return (probability * planes).sum(-3)
    if space == "inverse":
        return 1 / (probability / planes).sum(-3)
    return xp.exp((probability * xp.log(planes)).sum(-3))


def volume_confidence(
    volume: Any,
    *,
    sharpness: float = 1.0,
    planes: int = 4,
    around: str = "mean",
    check_finite: bool = False,
) -> Any:
    """The probability that a softmax over the planes puts next to the estimate: 1 for a sharp peak.

    Args:
        volume: (..., D, H, W) matching scores, high where the plane fits; as in `soft_argmax_depth`.
        sharpness: what the scores are multiplied by, > 0.
        planes: how many planes nearest to the estimate count, 1..D. A volume without any peak gives
            planes / D. At the first and the last plane the nearest ones lie on one side.
        around: "mean" for the expected plane index, the published definition: two separate peaks give a
            low value. "peak" for the highest plane, which goes with a windowed `soft_argmax_depth`.
        check_finite: look at values on a GPU too, which waits for it.

    Returns:
        (..., H, W) in [0, 1], of the kind of `volume`, float32 or float64. Gradients flow to the volume;
        the place of the planes is held fixed.

    Raises:
        ValueError: shapes, values that are not finite, options.

    Source: Yao et al., "MVSNet: Depth Inference for Unstructured Multi-view Stereo" (2018), section 3.3:
    the sum over the four planes nearest to the expected depth.
    """
    known_name("around", around, ("mean", "peak"))
    kind, volume = _volume(volume, check_finite)
    count = volume.shape[-3]
    if integer("planes", planes, 1) > count:
        raise ValueError(f"planes must be at most the D = {count} planes of volume, got {planes}")
    probability = _softmax(kind, number("sharpness", sharpness, positive=True) * volume)
    xp = kind.xp
    index = kind.arange(count).reshape(count, 1, 1)
    if around == "peak":
        place = xp.argmax(volume, axis=-3, keepdims=True)
    else:
        fixed = probability.detach() if kind.is_torch else probability
        place = (fixed * index).sum(-3, keepdims=True)
    # The `planes` integers nearest to `place`, all of them within the volume.
    first = xp.clip(xp.ceil(place - planes / 2), 0, count - planes)
    near = (index >= first) & (index < first + planes)
    mass = xp.where(near, probability, xp.zeros_like(probability)).sum(-3)
    return xp.clip(mass, 0, 1)


def _volume(volume: Any, look: bool) -> tuple[Kind, Any]:
    kind = _array_kinds.kind_of(volume)
    volume = kind.take(volume, "volume", _FLOATS)  # checked, where values can be looked at
    if volume.ndim < 3 or 0 in volume.shape[-3:]:
        shape = tuple(volume.shape)
        raise ValueError(f"volume must have shape (..., D, H, W), none of them 0, got {shape}")
    if look and not kind.can_look:
        kind.check_finite(volume, "volume", look=True)
    return kind, volume


def _depths(kind: Kind, depths: Any, volume: Any, look: bool) -> Any:
    """Planes that broadcast with the volume: (D, 1, 1), (..., D, 1, 1) or (..., D, H, W)."""
    planes = kind.take(depths, "depths", _FLOATS)
    kind.refuse(~((planes > 0) & (planes < float("inf"))), "depths must be positive", look=look)
    lead, count = tuple(volume.shape[:-3]), volume.shape[-3]
    shape = tuple(planes.shape)
    if shape == tuple(volume.shape) and len(shape) >= 3:
        return planes
    if shape == (count,) or shape == (*lead, count):
        return planes[..., None, None]
    raise ValueError(
        f"depths must have shape {(count,)}, {(*lead, count)} or {tuple(volume.shape)} for this "
        f"volume, got {shape}"
    )


def _softmax(kind: Kind, scores: Any) -> Any:
    """Over axis -3."""
    if kind.is_torch:
        return scores.softmax(-3)
    weight = np.exp(scores - scores.max(-3, keepdims=True))
    weight /= weight.sum(-3, keepdims=True)
    return weight


def _window(kind: Kind, scores: Any, planes: Any, reach: int) -> tuple[Any, Any]:
    """Scores and planes (..., 2 reach + 1, H, W) around the highest plane; -inf beyond the volume.

    What is not near is not read: the rest costs as much as the window, not as much as the volume.
    """
    xp, count = kind.xp, scores.shape[-3]
    offset = kind.arange(-min(reach, count), min(reach, count) + 1).reshape(-1, 1, 1)
    place = xp.argmax(scores, axis=-3, keepdims=True) + offset
    inside = (place >= 0) & (place < count)
    place = xp.clip(place, 0, count - 1)
    every = xp.broadcast_to(planes, scores.shape)
    take = xp.take_along_dim if kind.is_torch else np.take_along_axis
    near = take(scores, place, -3)
    return xp.where(inside, near, xp.full_like(near, -float("inf"))), take(every, place, -3)
