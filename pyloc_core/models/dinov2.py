# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of DINOv2 (Oquab et al. 2023), without register tokens.

Parameters bear the names of the published weights (`dinov2_vits14_pretrain.pth` and its like), so that
those files load as they are. The trunk of SALAD; any block's tokens can be tapped.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core import _checks
from pyloc_core.models.checkpoint import fit_state, read_checkpoint
from pyloc_core.models.network import initialise

PATCH = 14  # pixels
_GRID = 37  # cells a side of the stored positional embedding: 518 pixels
# Added to the number of cells before the scale of the positional embedding is formed, as published:
# the samples lie elsewhere than for a resize to the size.
_SCALE_OFFSET = 0.1


@dataclass(frozen=True)
class ViTSize:
    """Width, number of blocks, number of heads."""

    channels: int
    depth: int
    heads: int


# Oquab et al. 2023, appendix. ViT-g/14 has another kind of MLP and is not here.
SIZES = {
    "vits14": ViTSize(384, 12, 6),
    "vitb14": ViTSize(768, 12, 12),
    "vitl14": ViTSize(1024, 24, 16),
}


class Attention(nn.Module):
    """Multi-head self-attention; `qkv` gives queries, keys and values in this order."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, n, c / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, c))


class MLP(nn.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Normalise, attend, scale, add; normalise, MLP, scale, add."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads)
        self.ls1 = LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, 4 * channels)
        self.ls2 = LayerScale(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """A linear map of every 14 x 14 patch, row by row."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, n, C)


class DINOv2(nn.Module):
    """Images (B, 3, H, W), ImageNet mean and deviation, to a map of patches and a class token.

    Args:
        size: "vits14", "vitb14", "vitl14", or a `ViTSize`.
        trainable_blocks: gradients reach the last so many blocks and the final norm; what comes before
            runs without recording anything, and its parameters have `requires_grad` False. 0 freezes
            the final norm too. None: everything is trained.
        seed: of the random weights.

    Source: Oquab et al., "DINOv2: Learning robust visual features without supervision", 2023.
    """

    def __init__(
        self, size: str | ViTSize = "vitb14", *, trainable_blocks: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.size = vit_size(size)
        self.name = size if isinstance(size, str) else "a ViT of its own size"
        channels = self.channels = self.size.channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _GRID**2, channels))
        self.mask_token = nn.Parameter(torch.zeros(1, channels))  # in the files; not used here
        self.patch_embed = PatchEmbed(channels)
        self.blocks = nn.ModuleList(
            Block(channels, self.size.heads) for _ in range(self.size.depth)
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        seed = _checks.integer("seed", seed, 0)
        initialise(self, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            self.cls_token.normal_(0.0, 0.02, generator=generator)
            self.pos_embed.normal_(0.0, 0.02, generator=generator)
        self.trainable_blocks = self._freeze(trainable_blocks)

    def _freeze(self, trainable_blocks: int | None) -> int | None:
        depth = self.size.depth
        if trainable_blocks is None:
            return None
        trainable_blocks = _checks.integer("trainable_blocks", trainable_blocks, 0)
        if trainable_blocks > depth:
            raise ValueError(f"trainable_blocks must be 0 to {depth}, got {trainable_blocks}")
        self.requires_grad_(False)
        if trainable_blocks:
            self.norm.requires_grad_(True)
            self.blocks[depth - trainable_blocks :].requires_grad_(True)
        return trainable_blocks

    def load_pretrained(self, source: Any) -> DINOv2:
        """Load weights of DINOv2 alone: a published file, or a state dict, with or without a prefix.

        Raises ValueError for what is missing, unexpected (register tokens, say) or of another shape;
        the weights stay as they were then.
        """
        found = read_checkpoint(source)
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        prefixes = ("backbone.model.", "backbone.")
        try:
            state = fit_state(found.state, expected, f"DINOv2 {self.name}", prefixes=prefixes)
        except ValueError as error:
            raise ValueError(f"{found.source}: {error}") from None
        self.load_state_dict(state, strict=True)
        return self

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches of images (B, 3, H, W). ValueError for another shape, and for sides
        that are no multiple of 14; TypeError for what is no tensor of floating point."""
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a tensor of floating point, got {kind}")
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
            raise ValueError(
                f"the sides of images must be multiples of {PATCH}, got {height} x {width}"
            )
        return height // PATCH, width // PATCH

    def position(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, C): the positional embedding, bicubic, as published."""
        if rows == columns == _GRID:
            return self.pos_embed
        stored = self.pos_embed.float()
        cells = stored[:, 1:].view(1, _GRID, _GRID, -1).permute(0, 3, 1, 2)
        scale = [(cells_out + _SCALE_OFFSET) / _GRID for cells_out in (rows, columns)]
        resized = F.interpolate(cells, scale_factor=scale, mode="bicubic", antialias=False)
        return torch.cat([stored[:, :1], resized.flatten(2).transpose(1, 2)], 1)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1 + n, C): class token and patches with their positions, before the first block."""
        rows, columns = self.grid(images)
        token = self.cls_token.expand(len(images), -1, -1)
        # Under autocast the patches come in half precision; the sum of all blocks stays as wide as the
        # parameters.
        tokens = torch.cat([token, self.patch_embed(images).to(token.dtype)], 1)
        return tokens + self.position(rows, columns).to(tokens.dtype)

    def _tapped(self, images: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Tokens after the blocks `taps`, before the final norm."""
        frozen = -1 if self.trainable_blocks is None else self.size.depth - self.trainable_blocks
        found: dict[int, Tensor] = {}
        with torch.no_grad() if frozen >= 0 else nullcontext():
            x = self.embed(images)
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            with torch.no_grad() if index < frozen else nullcontext():
                x = block(x)
            if index in taps:
                found[index] = x
        return [found[tap] for tap in taps]

    def intermediate(
        self, images: Tensor, taps: Sequence[int], *, normalise: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """(patches (B, C, h, w), class token (B, C)) after each of the blocks `taps`, counted from 0.

        `normalise` applies the final norm, whatever the block. ValueError for a block that is not there.
        """
        depth = self.size.depth
        if not taps or not all(isinstance(tap, int) and 0 <= tap < depth for tap in taps):
            raise ValueError(f"taps must name blocks 0 to {depth - 1}, got {list(taps)}")
        rows, columns = self.grid(images)
        out = []
        for x in self._tapped(images, taps):
            x = self.norm(x) if normalise else x
            patches = x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))
            out.append((patches, x[:, 0]))
        return out

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(patches (B, C, h, w), class token (B, C)) after the last block and the final norm."""
        return self.intermediate(images, [self.size.depth - 1])[0]


def vit_size(size: str | ViTSize) -> ViTSize:
    """The numbers of a named size, checked. ValueError with the nearest name for an unknown one."""
    if isinstance(size, str):
        if size not in SIZES:
            close = difflib.get_close_matches(size, SIZES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(SIZES)}"
            raise ValueError(f"there is no DINOv2 {size!r} here; {hint}")
        return SIZES[size]
    if not isinstance(size, ViTSize):
        raise TypeError(f"the size of a DINOv2 is a name or a ViTSize, got {size!r}")
    if min(size.channels, size.depth, size.heads) < 1 or size.channels % size.heads:
        raise ValueError(f"channels must be a multiple of heads, all of them positive, got {size}")
    return size
