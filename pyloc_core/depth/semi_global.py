# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Smoothing of a matching cost along straight paths: semi-global matching.

Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", PAMI 2008. Along each
path direction r the cost of plane d at a pixel p is (Eq. 13)

    L_r(p, d) = C(p, d) + min(L_r(p-r, d), L_r(p-r, d-1) + P1, L_r(p-r, d+1) + P1, min_i L_r(p-r, i) + P2)
                - min_k L_r(p-r, k)

and the sum over the directions replaces C. P2 is lower where the picture changes, since there depth may.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

# (rows, columns) from one pixel of a path to the next; the first two run along rows.
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))


def aggregate(
    cost: Float32,
    guide: Float32,
    *,
    step: float,
    jump: float,
    edge: float = 0.04,
    paths: int = 8,
) -> Float32:
    """Cost (D, H, W) summed over `paths` directions, divided by their number.

    Args:
        cost: (D, H, W) float32, not negative.
        guide: (H, W) the picture, on the scale 0 .. 1.
        step: P1, for a change by one plane from a pixel to the next.
        jump: P2, for a larger one, where the guide is flat; divided by 1 + |change of guide| / edge
            elsewhere, but never below `step`.
        paths: 4 or 8.

    Raises ValueError for shapes that do not belong together and another number of paths.
    """
    if cost.ndim != 3 or guide.shape != cost.shape[1:]:
        raise ValueError(f"cost must be (D, H, W) and guide (H, W): {cost.shape}, {guide.shape}")
    if paths not in (4, 8):
        raise ValueError(f"paths must be 4 or 8, got {paths}")
    penalties = (step, jump, edge)
    # Along rows: as columns of the transposed volume, whose slices are contiguous.
    flipped = np.ascontiguousarray(cost.swapaxes(1, 2))
    along = np.zeros_like(flipped)
    for _, right in DIRECTIONS[:2]:
        _follow(flipped, guide.T, right, 0, penalties, along)
    total = np.ascontiguousarray(along.swapaxes(1, 2))
    for down, right in DIRECTIONS[2:paths]:
        _follow(cost, guide, down, right, penalties, total)
    total *= np.float32(1 / paths)
    return total


def _follow(
    cost: Float32,
    guide: Float32,
    down: int,
    right: int,
    penalties: tuple[float, float, float],
    total: Float32,
) -> None:
    """Add to `total` the costs of the paths that go `down` one row (+1 or -1) and `right` (-1, 0, 1)."""
    step, jump, edge = (np.float32(p) for p in penalties)
    rows = range(cost.shape[1]) if down > 0 else range(cost.shape[1] - 1, -1, -1)
    here: Float32 | None = None
    for y in rows:
        if here is None:
            here = cost[:, y].copy()
        else:
            before, lit = _moved(here, right), _moved(guide[y - down], right)
            penalty = np.maximum(jump / (1 + np.abs(guide[y] - lit) / edge), step)
            here = _advance(before, cost[:, y], step, penalty)
        total[:, y] += here


def _moved(values: Float32, right: int) -> Float32:
    """Values (..., W) of the pixel that a path comes from; a path that enters at the border starts there
    from the border's own."""
    if right == 0:
        return values
    moved = np.empty_like(values)
    if right > 0:
        moved[..., 1:], moved[..., 0] = values[..., :-1], values[..., 0]
    else:
        moved[..., :-1], moved[..., -1] = values[..., 1:], values[..., -1]
    return moved


def _advance(before: Float32, cost: Float32, step: np.float32, jump: Float32) -> Float32:
    """L_r (D, W) of the next pixel of W paths."""
    ahead = before - before.min(0)
    least = np.minimum(ahead, jump)
    np.minimum(least[1:], ahead[:-1] + step, out=least[1:])
    np.minimum(least[:-1], ahead[1:] + step, out=least[:-1])
    least += cost
    return least
