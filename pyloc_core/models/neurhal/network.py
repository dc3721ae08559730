# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The network of NeurHal: keypoints of a source image, a target image, and the space around it."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pyloc_core.geometry import map_from_image
from pyloc_core.localization.pair import PairFeatures
from pyloc_core.models.inception import inception_trunk, trunk_stride
from pyloc_core.models.network import Licence, Network, initialise
from pyloc_core.models.neurhal.layers import (
    POSITION_WIDTHS,
    GatedAttentionLayer,
    PositionalEncoding,
    map_tokens,
    sample,
)
from pyloc_core.models.pixels import normalised

Size = tuple[int, int]
CUT = "Mixed_6a"
# Hidden widths of the layers' MLPs that meet the parameter counts of the thesis (table C.1): 1.9 M for the
# self-attention, 7.2 M for the five cross-attentions, 11.7 M together. The layout is not published.
SELF_HIDDEN, CROSS_HIDDEN = 1152, 736


class Hallucination(NamedTuple):
    """What the network says of B pairs with N keypoints each.

    Attributes:
        descriptors: (B, N, C), one vector per keypoint.
        features: (B, C, H, W) of the padded target map. The correlation map of keypoint n is the dot
            product of its vector with every cell, at temperature 1: what `loss_maps`, `match` and
            `nre_loss` take.
        origin: (x0, y0) map point of cell [0, 0], not positive.
        image_cells: (H, W) in cells that the target image covers.
        covers: (height, width) in pixels of those cells: as large as the image, or larger by less than a
            cell.
        corner: point (x, y) of the target image where its first cell begins: cell i of the trunk sees
            around pixel i * stride.
    """

    descriptors: Tensor
    features: Tensor
    origin: tuple[int, int]
    image_cells: Size
    covers: Size
    corner: tuple[float, float]


class NeurHal(Network):
    """Correspondence maps of source keypoints over a target image and its surroundings.

    A siamese trunk (the NRE one up to Mixed_6a, then 1 x 1 to 384 channels); the target map padded by a
    learned vector; positional encoding of both; one self-attention of the padded target map; keypoints
    read from the source map; one cross-attention to the source map and four to the padded target map.

    Germain, Lepetit and Bourmaud, "Visual Correspondence Hallucination", ICLR 2022; H. Germain, thesis
    (2021), chapter 5 and appendix C. No official weights are at hand: they lie, without a licence, in
    supplementary material that was not read. So this wrapper follows the text and **cannot be certified**
    against the original. What the text does not say is inferred: the MLP of the attention layers (from
    parameter counts), positions beyond -1 and 1 outside the image, one gate per query and head, the place
    of the max-pooling (after the projections).

    Args:
        no_maxpool: leave out the second max-pooling: stride 8 (ScanNet) instead of 16 (MegaDepth).
        gamma: padding on each side as a share of the map: 0.5 turns 80 x 60 cells into 160 x 120.
        map_edge: cells along the longer side of the largest map without padding (thesis: 80 at stride 8,
            60 at stride 16); larger images are shrunk by `preprocess`.
        scale: factor of the attention's logits; the published formula has none.
        self_hidden, cross_hidden: widths of the attention layers' MLPs.
        seed: of the random weights.
    """

    model_name: ClassVar[str] = "neurhal"
    licence: ClassVar[Licence] = Licence(
        code="none stated; not read",
        weights="none stated; in supplementary material, not read",
        note="train your own: this wrapper cannot be certified against the original",
    )
    channels = POSITION_WIDTHS[-1]
    heads = 4
    cross_layers = 4  # to the target, after the one to the source

    def __init__(
        self, *, no_maxpool: bool = True, gamma: float = 0.5, map_edge: int | None = None,
        scale: float = 1.0, self_hidden: int = SELF_HIDDEN, cross_hidden: int = CROSS_HIDDEN, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not (math.isfinite(gamma) and 0 <= gamma <= 2):
            raise ValueError(f"gamma must lie within 0 and 2, got {gamma}")
        map_edge = (80 if no_maxpool else 60) if map_edge is None else map_edge
        if isinstance(map_edge, bool) or not isinstance(map_edge, int) or map_edge < 1:
            raise ValueError(f"map_edge must be a positive int, got {map_edge!r}")
        for name, value in (("self_hidden", self_hidden), ("cross_hidden", cross_hidden)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.no_maxpool, self.gamma, self.map_edge, self.scale = no_maxpool, gamma, map_edge, scale
        trunk, width = inception_trunk(CUT, no_maxpool=no_maxpool)
        self.cnn = nn.Sequential(*trunk, nn.Conv2d(width, self.channels, 1))
        self.padding = nn.Parameter(torch.empty(self.channels))
        self.position = PositionalEncoding(self.channels)
        layer = (self.channels, self.heads)
        self.self_attention = GatedAttentionLayer(*layer, self_hidden, scale)
        self.source_attention = GatedAttentionLayer(*layer, cross_hidden, scale)
        self.target_attention = nn.ModuleList(
            GatedAttentionLayer(*layer, cross_hidden, scale) for _ in range(self.cross_layers)
        )
        initialise(self, seed)
        self._start_small(seed)
        self.eval()

    def _start_small(self, seed: int) -> None:
        """Logits of order one, in the attention and in the correlation maps, and small residual branches.
        Neither formula divides by sqrt(d), so that plain He weights start with logits of hundreds."""
        generator = torch.Generator().manual_seed(int(seed) + 1)
        with torch.no_grad():
            self.padding.normal_(0.0, 0.1, generator=generator)
            self.cnn[-1].weight.mul_(0.1)  # type: ignore[operator]
            self.position.mlp[-1].weight.mul_(0.1)  # type: ignore[operator]
            for layer in self.modules():
                if isinstance(layer, GatedAttentionLayer):
                    layer.contract.weight.mul_(0.1)
                    layer.query.weight.mul_((self.channels / self.heads) ** -0.5)

    def config(self) -> dict[str, Any]:
        return {
            "no_maxpool": self.no_maxpool, "gamma": self.gamma, "map_edge": self.map_edge,
            "scale": self.scale, "self_hidden": self.self_attention.expand.out_features,
            "cross_hidden": self.source_attention.expand.out_features,
        }  # fmt: skip

    @property
    def stride(self) -> int:
        """Image pixels per cell."""
        return trunk_stride(CUT, no_maxpool=self.no_maxpool)

    @property
    def corner(self) -> tuple[float, float]:
        """Image point where cell [0, 0] begins, see `Hallucination`."""
        return -(self.stride - 1) / 2, -(self.stride - 1) / 2

    def covers(self, image_size: Size) -> Size:
        """(height, width) in pixels that the cells of an image cover."""
        stride = self.stride
        return tuple(-(-side // stride) * stride for side in image_size)  # type: ignore[return-value]

    def padding_cells(self, image_cells: Size) -> Size:
        """Rows above and below, and columns on either side, that are added to a target map."""
        return round(self.gamma * image_cells[0]), round(self.gamma * image_cells[1])

    def preprocess(self, image: Any) -> Tensor:
        """(1, 3, H, W) normalised, within map_edge * stride pixels, on the network's device."""
        x = normalised(image)
        limit, sides = self.map_edge * self.stride, x.shape[2:]
        if max(sides) > limit:
            size = [max(1, round(side * limit / max(sides))) for side in sides]
            x = nn.functional.interpolate(
                x, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        return x.to(self.device)

    def forward(self, source: Tensor, target: Tensor, keypoints: Tensor) -> Hallucination:
        """Descriptors of keypoints and features of the padded target.

        Args:
            source, target: (B, 3, H, W) normalised images; the two sizes may differ.
            keypoints: (B, N, 2) in pixels of `source`, the centre of the first at (0.5, 0.5).

        Raises ValueError for shapes that do not fit.
        """
        _check(source, target, keypoints)
        near = self.cnn(source)
        far = self.cnn(target)
        image_cells = (int(far.shape[2]), int(far.shape[3]))
        rows, columns = self.padding_cells(image_cells)
        origin = (-columns, -rows)
        near = self.position(near, (0, 0), (int(near.shape[2]), int(near.shape[3])))
        far = self.position(self._padded(far, rows, columns), origin, image_cells)
        size = far.shape[2:]
        tokens = self.self_attention(map_tokens(far), far)
        far = tokens.transpose(1, 2).reshape(*far.shape[:2], *size)
        found = sample(near, self.source_cells(keypoints, source))
        found = self.source_attention(found, near)
        for layer in self.target_attention:
            found = layer(found, far)
        covers = self.covers((int(target.shape[2]), int(target.shape[3])))
        return Hallucination(found, far, origin, image_cells, covers, self.corner)

    def match_pair(
        self, source: npt.NDArray[Any], target: npt.NDArray[Any], xy: npt.NDArray[np.float64]
    ) -> PairFeatures:
        """Descriptors of source pixels and the padded features of a target, as `PairMatcher` asks.

        Args:
            source, target: (H, W, 3) or (H, W) uint8 images.
            xy: (N, 2) pixels of `source`.

        Tensors of the result lie on the network's device.
        """
        near, far = self.preprocess(source), self.preprocess(target)
        ratio = np.array(near.shape[:1:-1]) / np.array(source.shape[1::-1])
        points = torch.as_tensor(np.asarray(xy) * ratio, dtype=torch.float32, device=near.device)
        with torch.inference_mode():
            found = self(near, far, points[None])
        resized = (int(far.shape[2]), int(far.shape[3]))
        return PairFeatures(
            found.descriptors[0], found.features[0], found.origin, found.image_cells, found.covers, resized,
            found.corner,
        )  # fmt: skip

    def source_cells(self, keypoints: Tensor, source: Tensor) -> Tensor:
        """Map points of the source of its pixels (B, N, 2)."""
        covers = self.covers((int(source.shape[2]), int(source.shape[3])))
        cells = (covers[0] // self.stride, covers[1] // self.stride)
        # The conversion is linear: scale and offset from the one function that has them.
        probes = np.array([[0.0, 0.0], [1.0, 1.0]]) - self.corner
        one, two = np.asarray(map_from_image(probes, covers, cells))
        offset = torch.tensor(one, dtype=keypoints.dtype, device=keypoints.device)
        scale = torch.tensor(two - one, dtype=keypoints.dtype, device=keypoints.device)
        return keypoints * scale + offset

    def _padded(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """(B, C, H + 2 rows, W + 2 columns), the learned vector in every new cell."""
        batch, channels, height, width = features.shape
        padded = self.padding.to(features.dtype)[None, :, None, None].expand(
            batch, channels, height + 2 * rows, width + 2 * columns
        )
        padded = padded.clone()
        padded[:, :, rows : rows + height, columns : columns + width] = features
        return padded


def _check(source: Tensor, target: Tensor, keypoints: Tensor) -> None:
    for name, image in (("source", source), ("target", target)):
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
            raise ValueError(f"{name} must be (B, 3, H, W) and not empty, got {tuple(image.shape)}")
    if keypoints.ndim != 3 or keypoints.shape[2] != 2:
        raise ValueError(f"keypoints must be (B, N, 2), got {tuple(keypoints.shape)}")
    if not len(source) == len(target) == len(keypoints):
        raise ValueError(
            f"source, target and keypoints must hold as many pairs, got {len(source)}, {len(target)} "
            f"and {len(keypoints)}"
        )
