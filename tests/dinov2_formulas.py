# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of DINOv2 written out in float64, head by head, for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def noise(seed: int, *shape: int) -> Any:
    """Normal values that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def normed(x: Any, p: dict[str, Any], name: str) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def block_by_hand(x: Any, p: dict[str, Any], heads: int) -> Any:
    """One image's tokens (T, C), head by head."""
    c = x.shape[1]
    d = c // heads
    qkv = normed(x, p, "norm1") @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]
    outs = []
    for h in range(heads):
        q, k, v = (qkv[:, part * c + h * d : part * c + (h + 1) * d] for part in range(3))
        logits = q @ k.T / math.sqrt(d)
        weight = torch.exp(logits - logits.max(1, keepdim=True).values)
        outs.append(weight / weight.sum(1, keepdim=True) @ v)
    attended = torch.cat(outs, 1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
    x = x + p["ls1.gamma"] * attended
    hidden = normed(x, p, "norm2") @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + p["ls2.gamma"] * (hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"])


def cubic(t: float) -> float:
    """The convolution kernel of Keys with a = -3/4."""
    t, a = abs(t), -0.75
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resize_matrix(cells: int) -> np.ndarray:
    """(cells, 37): weights of the stored cells; the scale is (cells + 0.1) / 37, borders repeat."""
    matrix = np.zeros((cells, 37))
    for i in range(cells):
        at = (i + 0.5) * 37 / (cells + 0.1) - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[i, min(max(tap, 0), 36)] += cubic(at - tap)
    return matrix


def positions_by_hand(pos_embed: Any, rows: int, columns: int) -> np.ndarray:
    """(1 + rows * columns, C) of the stored (1, 1370, C)."""
    stored = pos_embed.detach().double().numpy()[0]
    cells = stored[1:].reshape(37, 37, -1)
    out = np.einsum("ia,jb,abc->ijc", resize_matrix(rows), resize_matrix(columns), cells)
    return np.concatenate([stored[:1], out.reshape(rows * columns, -1)])


def tokens_by_hand(state: dict[str, Any], image: Any, heads: int) -> list[Any]:
    """(1 + n, C) float64 of one image (3, H, W): before the first block, after each, after the norm."""
    p = {name: value.detach().double() for name, value in state.items()}
    rows, columns = image.shape[1] // 14, image.shape[2] // 14
    cut = image.double().reshape(3, rows, 14, columns, 14)  # channel, row, y, column, x
    flat = cut.permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    weight, bias = p["patch_embed.proj.weight"], p["patch_embed.proj.bias"]
    x = torch.cat([p["cls_token"][0], flat @ weight.reshape(len(weight), -1).T + bias])
    out = [x + torch.from_numpy(positions_by_hand(p["pos_embed"], rows, columns))]
    depth = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("blocks."))
    for index in range(depth):
        here = f"blocks.{index}."
        of_block = {k.removeprefix(here): v for k, v in p.items() if k.startswith(here)}
        out.append(block_by_hand(out[-1], of_block, heads))
    return [*out, normed(out[-1], p, "norm")]
