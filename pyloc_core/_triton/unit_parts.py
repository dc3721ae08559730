# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Descriptors of parts of unit length, brought to unit length together: a program per item.

Parts (B, parts * size) are float32 sums, with any stride between parts and along them; a token (B, t), if there
is one, is a part of its own and comes first. Lengths below 1e-12 count as 1e-12, and have no gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

EPSILON = tl.constexpr(1e-12)  # as in reference/normalise.py


@triton.jit
def _length(squares):
    return tl.maximum(tl.sqrt(squares), EPSILON)


@triton.jit
def _places(first, parts, size, part_stride, stride, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr):
    """Offsets of entries [first, first + BLOCK_S) of all parts, and which of them exist."""
    part, entry = tl.arange(0, BLOCK_P), first + tl.arange(0, BLOCK_S)
    place = part[:, None] * part_stride + entry[None, :] * stride
    return place, (part < parts)[:, None] & (entry < size)[None, :]


@triton.jit
def normalise_kernel(
    sums, token, out, parts, size, part_stride, stride, t,
    TOKEN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """out (B, t + parts * size) = [token / |token|, part / |part|, ...] / its length."""
    item = tl.program_id(0).to(tl.int64)
    own = sums + item * parts * size
    target = out + item * (parts * size + t)
    kind = out.dtype.element_ty
    squares = tl.zeros([BLOCK_P, BLOCK_S], tl.float32)
    for first in range(0, size, BLOCK_S):
        place, inside = _places(first, parts, size, part_stride, stride, BLOCK_P, BLOCK_S)
        x = tl.load(own + place, mask=inside, other=0.0)
        squares += x * x
    squared = tl.sum(squares, 1)
    length = _length(squared)
    whole = tl.sum(squared / (length * length), 0)
    if TOKEN:
        entry = tl.arange(0, BLOCK_T)
        g = tl.load(token + item * t + entry, mask=entry < t, other=0.0).to(tl.float32)
        g_squared = tl.sum(g * g, 0)
        g_length = _length(g_squared)
        whole += g_squared / (g_length * g_length)
        g = g / (g_length * _length(whole))
        tl.store(target + entry, g.to(kind), mask=entry < t)
    scale = 1.0 / (length * _length(whole))
    for first in range(0, size, BLOCK_S):
        place, inside = _places(first, parts, size, part_stride, stride, BLOCK_P, BLOCK_S)
        x = tl.load(own + place, mask=inside, other=0.0) * scale[:, None]
        tl.store(target + t + place, x.to(kind), mask=inside)


@triton.jit
def _through(x, slope, squared, length, inner, scale):
    """Gradient of x from that of x / |x| * scale, where <unit, slope> = `inner` (scale included)."""
    unit = x / length
    return tl.where(squared > EPSILON * EPSILON, (slope * scale - unit * inner) / length, 0.0)


@triton.jit
def normalise_gradient_kernel(
    sums, token, d_out, d_sums, d_token, parts, size, part_stride, stride, t,
    TOKEN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """With x = (units of the parts), D the slope and e = x / |x|: x' = (D - e <e, D>) / |x|, then for every
    part the same again."""
    item = tl.program_id(0).to(tl.int64)
    own, target = sums + item * parts * size, d_sums + item * parts * size
    slopes = d_out + item * (parts * size + t)
    squares = tl.zeros([BLOCK_P, BLOCK_S], tl.float32)
    inners = tl.zeros([BLOCK_P, BLOCK_S], tl.float32)
    for first in range(0, size, BLOCK_S):
        place, inside = _places(first, parts, size, part_stride, stride, BLOCK_P, BLOCK_S)
        x = tl.load(own + place, mask=inside, other=0.0)
        d = tl.load(slopes + t + place, mask=inside, other=0.0).to(tl.float32)
        squares += x * x
        inners += x * d
    squared, inner = tl.sum(squares, 1), tl.sum(inners, 1)
    length = _length(squared)
    inner = inner / length  # <unit, D> of every part
    unit_squared = squared / (length * length)
    whole, along = tl.sum(unit_squared, 0), tl.sum(inner, 0)
    if TOKEN:
        entry = tl.arange(0, BLOCK_T)
        g = tl.load(token + item * t + entry, mask=entry < t, other=0.0).to(tl.float32)
        g_d = tl.load(slopes + entry, mask=entry < t, other=0.0).to(tl.float32)
        g_squared = tl.sum(g * g, 0)
        g_length = _length(g_squared)
        g_inner = tl.sum(g * g_d, 0) / g_length
        g_unit_squared = g_squared / (g_length * g_length)
        whole += g_unit_squared
        along += g_inner
    reach = _length(whole)
    scale = tl.where(whole > EPSILON * EPSILON, 1.0 / reach, 0.0)
    along = along / reach  # <e, D>
    # x' = scale (D - e along), and <unit, x'> = scale (inner - |unit|^2 along / reach).
    inner = scale * (inner - unit_squared * along / reach)
    for first in range(0, size, BLOCK_S):
        place, inside = _places(first, parts, size, part_stride, stride, BLOCK_P, BLOCK_S)
        x = tl.load(own + place, mask=inside, other=0.0)
        d = tl.load(slopes + t + place, mask=inside, other=0.0).to(tl.float32)
        d = d - x / length[:, None] * (along / reach)
        value = _through(x, d, squared[:, None], length[:, None], inner[:, None], scale)
        tl.store(target + place, value, mask=inside)
    if TOKEN:
        g_d = g_d - g / g_length * (along / reach)
        g_inner = scale * (g_inner - g_unit_squared * along / reach)
        value = _through(g, g_d, g_squared, g_length, g_inner, scale)
        place = d_token + item * t + entry
        tl.store(place, value.to(d_token.dtype.element_ty), mask=entry < t)


# ---------------------------------------------------------------------------------------------- launchers


def _options(parts: int, token: Tensor | None) -> dict[str, int]:
    block_p = triton.next_power_of_2(parts)
    return {
        "TOKEN": int(token is not None),
        "BLOCK_P": block_p,
        "BLOCK_S": max(1, min(64, 8192 // block_p)),
        "BLOCK_T": triton.next_power_of_2(1 if token is None else max(1, token.shape[1])),
        "num_warps": 8,
    }


def _layout(sums: Tensor, parts_first: bool) -> tuple[int, int, int, int]:
    """Parts, entries of each, and the strides of both, of sums (B, parts, size) or (B, size, parts)."""
    parts, size = sums.shape[1:] if parts_first else sums.shape[:0:-1]
    return (parts, size, size, 1) if parts_first else (parts, size, 1, parts)


def normalise(sums: Tensor, token: Tensor | None, parts_first: bool, dtype: torch.dtype) -> Tensor:
    """(B, t + parts * size) of `sums` (B, parts, size), or (B, size, parts), as they lie."""
    t = 0 if token is None else token.shape[1]
    out = sums.new_empty(sums.shape[0], t + sums[0].numel(), dtype=dtype)
    layout = _layout(sums, parts_first)
    normalise_kernel[(sums.shape[0],)](
        sums, sums if token is None else token, out, *layout, t, **_options(layout[0], token)
    )
    return out


def normalise_gradient(
    sums: Tensor, token: Tensor | None, parts_first: bool, d_out: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the sums, float32, and of the token, in its dtype."""
    t = 0 if token is None else token.shape[1]
    d_sums = torch.empty_like(sums)
    d_token = None if token is None else torch.empty_like(token)
    layout = _layout(sums, parts_first)
    normalise_gradient_kernel[(sums.shape[0],)](
        sums, sums if token is None else token, d_out, d_sums,
        d_sums if d_token is None else d_token, *layout, t, **_options(layout[0], token),
    )  # fmt: skip
    return d_sums, d_token
