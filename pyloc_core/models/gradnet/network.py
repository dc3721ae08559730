# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A small network for dense descriptors at strides 8 and 2, which starts out as dense RootSIFT.

Rectified oriented derivatives of the image are pooled, rooted and compared on a 4 x 4 grid: with the
initial weights that is a projection of RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012). All of
it is learned, and each level has a convolutional trunk beside it, which adds channels to the fine
grid and context of about 90 pixels to the coarse one. The rest of the design follows from use:

- Every operation up to the normalisation is homogeneous, without offsets, so that gain and offset of
  the grey values cancel as they do in SIFT.
- The fine level pads nothing: a patch of `PATCH` pixels gives exactly the descriptor that the dense
  map has there, which is how reference patches are described as a query would see them.
- The sharpness of the softmax over similarities is learned with the descriptors (`beta`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core.localization.images import to_gray
from pyloc_core.models.network import Licence, Network, initialise

COARSE_STRIDE, FINE_STRIDE = 8, 2
ORIENTATIONS = 8
MARGIN = 14  # pixels around a fine cell's 2 x 2 that its descriptor sees: 4 + 2 (2 + 3)
PATCH = 2 * MARGIN + FINE_STRIDE
_STEM = 9  # taps
_STEM_SIGMAS = (1.0, 1.7)
_BETA_STEP = 10.0
_ROOT_FLOOR = 1e-4  # below the noise of 8-bit grey values; keeps the root's slope finite


class GradNet(Network):
    """Grey images in, unit vectors per cell out.

    `stem`, `fine` and `coarse` are the parts; `forward` is both levels of whole images. Inputs are
    float32 grey values in [0, 1].

    Args:
        seed: of the weights of the trunks; everything else starts as gradient histograms.
        fine_channels, coarse_channels: D of the two levels.
        fine_trunk, fine_extra: channels inside the fine trunk, and what it adds to the fine grid.
        coarse_trunk, coarse_context: channels of the coarse trunk at strides 4 and 8.
    """

    model_name = "gradnet"
    licence = Licence(
        code="Apache-2.0 (this project's own)",
        weights="Apache-2.0 (this project's own)",
        note="The weights come with the package; see the model card beside them.",
    )

    def __init__(
        self,
        *,
        seed: int = 0,
        fine_channels: int = 64,
        coarse_channels: int = 128,
        fine_trunk: int = 32,
        fine_extra: int = 16,
        coarse_trunk: int = 64,
        coarse_context: int = 96,
    ) -> None:
        super().__init__()
        self._config = {
            "fine_channels": fine_channels, "coarse_channels": coarse_channels,
            "fine_trunk": fine_trunk, "fine_extra": fine_extra,
            "coarse_trunk": coarse_trunk, "coarse_context": coarse_context,
        }  # fmt: skip
        for name, value in self._config.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        first = ORIENTATIONS * len(_STEM_SIGMAS)
        self.stem_filters = nn.Conv2d(1, first, _STEM, bias=False)
        self.fine_level = FineLevel(first, fine_channels, fine_trunk, fine_extra)
        self.coarse_level = CoarseLevel(first, coarse_channels, coarse_trunk, coarse_context)
        # Logarithms of the sharpness over _BETA_STEP, so that the weights' learning rate fits them.
        self.sharpness = nn.Parameter(torch.tensor([12.0, 18.0]).log() / _BETA_STEP)
        initialise(self, seed)
        with torch.no_grad():
            self.stem_filters.weight.copy_(oriented_derivatives())
            self.fine_level.pool.weight.copy_(triangle((0.25, 0.5, 0.25)))
            self.coarse_level.pool.weight.copy_(triangle((0.125, 0.375, 0.375, 0.125)))
            self.coarse_level.out.weight.zero_()  # the context is learned as a correction
        self.eval()

    def config(self) -> dict[str, Any]:
        return dict(self._config)

    @property
    def beta(self) -> Tensor:
        """(2,) sharpness of the softmax: coarse, fine."""
        return torch.exp(_BETA_STEP * self.sharpness)

    def preprocess(self, image: Any) -> Tensor:
        """(1, 1, H, W) in [0, 1] of an image (H, W) or (H, W, 3), grey values in [0, 255].

        Sides are rounded up to multiples of 8 by repeating the border.
        """
        gray = to_gray(image)
        bottom, right = (-side % COARSE_STRIDE for side in gray.shape)
        padded = np.pad(gray, ((0, bottom), (0, right)), mode="edge") / np.float32(255)
        return torch.from_numpy(padded)[None, None].to(self.device)

    def stem(self, gray: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, C, (H - 8) / 2, (W - 8) / 2), not negative; H and W even."""
        # Grey values have eight bits already: bfloat16 would lose the last of them.
        with torch.autocast(gray.device.type, enabled=False):
            return F.avg_pool2d(F.relu(self.stem_filters(gray.float())), 2)

    def patches(self, gray: Tensor) -> Tensor:
        """(N, 1, PATCH, PATCH) -> (N, D) fine descriptors of the patches' centres."""
        return self.fine_level(self.stem(gray)).flatten(1)

    def coarse(self, gray: Tensor) -> Tensor:
        """(B, 1, H, W), sides multiples of 8 -> (B, D, H / 8, W / 8)."""
        return self.coarse_level(self.stem(_padded(gray, _STEM // 2)))

    def fine(self, gray: Tensor) -> Tensor:
        """(B, 1, H, W), sides even -> (B, D, H / 2, W / 2)."""
        return self.fine_level(self.stem(_padded(gray, MARGIN)))

    def forward(self, gray: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse and fine level of (B, 1, H, W), sides multiples of 8, on one stem."""
        shared = self.stem(_padded(gray, MARGIN))
        cut = (MARGIN - _STEM // 2) // 2
        inner = shared[..., cut:-cut, cut:-cut]
        return self.coarse_level(inner), self.fine_level(shared)

    @torch.inference_mode()
    def both_levels(self, gray: Tensor, rows: int = 16) -> tuple[Tensor, Tensor]:
        """`forward` of one image, the fine level in strips of so many cells that stay in the cache."""
        shared = self.stem(_padded(gray, MARGIN))
        cut = (MARGIN - _STEM // 2) // 2
        coarse = self.coarse_level(shared[..., cut:-cut, cut:-cut])
        h, w = gray.shape[2] // FINE_STRIDE, gray.shape[3] // FINE_STRIDE
        fine = gray.new_empty(1, self._config["fine_channels"], h, w)
        reach = MARGIN - _STEM // 2  # cells of the strip above and below those it gives, together
        for start in range(0, h, rows):
            stop = min(start + rows, h)
            fine[:, :, start:stop] = self.fine_level(shared[:, :, start : stop + reach])
        return coarse, fine


class FineLevel(nn.Module):
    """4 x 4 bins of 4 pixels around a cell of 2, on rooted channels. Pads nothing."""

    def __init__(self, channels: int, out: int, trunk: int, extra: int) -> None:
        super().__init__()
        self.pool = nn.Conv2d(channels, channels, 3, groups=channels, bias=False)
        self.trunk_in = nn.Conv2d(channels, trunk, 3, bias=False)
        self.trunk_out = nn.Conv2d(trunk, extra, 3, bias=False)
        self.project = nn.Conv2d(channels + extra, out, 4, dilation=2, bias=False)
        self.offset = nn.Parameter(torch.zeros(out))
        self.log_floor = nn.Parameter(torch.tensor(math.log(3e-4)))

    def rooted(self, stem: Tensor) -> tuple[Tensor, Tensor]:
        """Rooted channels (B, C, h - 4, w - 4) and the mean of what was rooted, (B, 1, ...)."""
        pooled = self.pool(stem).clamp_min(0)[..., 1:-1, 1:-1]
        extra = F.relu(self.trunk_out(F.relu(self.trunk_in(stem))))
        both = torch.cat([pooled, extra], 1)
        return torch.sqrt(both + _ROOT_FLOOR) - math.sqrt(_ROOT_FLOOR), both.mean(1, keepdim=True)

    def forward(self, stem: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h - 10, w - 10)."""
        root, mass = self.rooted(stem)
        # The mean over the 16 bins that are compared, which lie two cells apart.
        mass = F.conv2d(mass, mass.new_full((1, 1, 4, 4), 1 / 16), dilation=2)
        scaled = self.project(root) * torch.rsqrt(mass + self.log_floor.exp())
        return F.normalize(scaled + self.offset[:, None, None], dim=1)


class CoarseLevel(nn.Module):
    """4 x 4 bins of 8 pixels around a cell of 8, and a trunk that sees more. Pads with zeros."""

    def __init__(self, channels: int, out: int, trunk: int, context: int) -> None:
        super().__init__()
        # From cells of 4 pixels to points 8 pixels apart, on the corners of the cells of 8.
        self.pool = nn.Conv2d(
            channels, channels, 4, stride=2, padding=2, groups=channels, bias=False
        )
        self.project = nn.Conv2d(channels, out, 4, padding=1, bias=False)
        self.offset = nn.Parameter(torch.zeros(out))
        self.log_floor = nn.Parameter(torch.tensor(math.log(3e-4)))
        self.trunk = nn.ModuleList(
            [nn.Conv2d(channels, trunk, 3, padding=1), nn.Conv2d(trunk, trunk, 3, padding=1)]
        )
        self.down = nn.Conv2d(trunk, context, 4, stride=2, padding=1)
        self.context = nn.ModuleList(
            nn.Conv2d(context, context, 3, padding=d, dilation=d) for d in (1, 2, 1)
        )
        self.out = nn.Conv2d(context, out, 1)

    def rooted(self, small: Tensor) -> tuple[Tensor, Tensor]:
        """Rooted channels and their mean mass on the corners, from cells of 4 pixels."""
        pooled = self.pool(small).clamp_min(0)
        root = torch.sqrt(pooled + _ROOT_FLOOR) - math.sqrt(_ROOT_FLOOR)
        return root, pooled.mean(1, keepdim=True)

    def forward(self, stem: Tensor) -> Tensor:
        """(B, C, H / 2, W / 2) -> (B, D, H / 8, W / 8)."""
        small = F.avg_pool2d(stem, 2)
        root, mass = self.rooted(small)
        floor = self.log_floor.exp()
        # count_include_pad=False: the border's mean is over the corners inside.
        mass = F.avg_pool2d(mass, 4, 1, 1, count_include_pad=False)
        grid = self.project(root) * torch.rsqrt(mass + floor)
        around = F.avg_pool2d(small.mean(1, keepdim=True), 5, 1, 2, count_include_pad=False)
        x = torch.sqrt(small + _ROOT_FLOOR) * torch.rsqrt(around + floor)
        x = F.relu(self.trunk[0](x))
        x = x + F.relu(self.trunk[1](x))
        x = F.relu(self.down(x))
        for layer in self.context:
            x = x + F.relu(layer(x))
        return F.normalize(grid + self.offset[:, None, None] + self.out(x), dim=1)


def oriented_derivatives() -> Tensor:
    """(16, 1, 9, 9) derivatives of Gaussians in 8 directions at two widths, unit slope to one."""
    at = torch.arange(_STEM, dtype=torch.float64) - _STEM // 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    filters = []
    for sigma in _STEM_SIGMAS:
        bell = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
        for k in range(ORIENTATIONS):
            angle = 2 * math.pi * k / ORIENTATIONS
            along = math.cos(angle) * x + math.sin(angle) * y
            taps = along * bell
            filters.append(taps / (taps * along).sum())
    return torch.stack(filters)[:, None].float()


def triangle(taps: tuple[float, ...]) -> Tensor:
    """(1, 1, K, K) separable taps."""
    row = torch.tensor(taps)
    return (row[:, None] * row)[None, None]


def _padded(gray: Tensor, margin: int) -> Tensor:
    return F.pad(gray, (margin,) * 4, mode="replicate")
