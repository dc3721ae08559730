# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""DINOv2 SALAD: images to one unit vector each, for place recognition."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pyloc_core import _checks
from pyloc_core.localization.features import Float32
from pyloc_core.localization.images import read_image
from pyloc_core.models.dinov2 import PATCH, DINOv2
from pyloc_core.models.network import Licence, Network, as_numpy
from pyloc_core.models.pixels import normalised, squashed
from pyloc_core.models.salad.head import SALADHead


class SALAD(Network):
    """DINOv2 with the SALAD head.

    Args:
        backbone: "vits14", "vitb14" (published) or "vitl14".
        num_clusters, cluster_dim, token_dim, hidden: of the head; `head.HEADS` has the published sizes.
        size: images are squashed to this many pixels, one int or (height, width), multiples of 14
            (published: 322, and 224 in training); None leaves them as they are.
        trainable_blocks: how many of the last blocks of the backbone are trained with the final norm and
            the head (published: 4). What is before them runs without recording gradients.
        seed: of the random weights.

    Source: Izquierdo, Civera, "Optimal transport aggregation for visual place recognition", CVPR 2024.
    """

    model_name: ClassVar[str] = "salad"
    licence = Licence(
        code="GPL-3.0",
        weights="none of their own, released in the GPL-3.0 repository; the DINOv2 weights that "
        "training starts from are Apache-2.0; trained on GSV-Cities",
        note="not shipped here; this implementation is an independent one and not under the GPL",
    )

    def __init__(
        self,
        *,
        backbone: str = "vitb14",
        num_clusters: int = 64,
        cluster_dim: int = 128,
        token_dim: int = 256,
        hidden: int = 512,
        size: int | Sequence[int] | None = 322,
        trainable_blocks: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, str):
            raise TypeError(f"backbone must be a name, got {backbone!r}")
        self.size = _image_size(size)
        vit = DINOv2(backbone, trainable_blocks=trainable_blocks, seed=seed)
        self.backbone = nn.ModuleDict({"model": vit})  # the published names
        self.aggregator = SALADHead(
            vit.channels,
            num_clusters=num_clusters,
            cluster_dim=cluster_dim,
            token_dim=token_dim,
            hidden=hidden,
            seed=seed + 2,
        )
        head = self.aggregator
        self._config = {
            "backbone": backbone, "num_clusters": head.num_clusters, "cluster_dim": head.cluster_dim,
            "token_dim": head.token_dim, "hidden": int(hidden),
            "trainable_blocks": vit.trainable_blocks,
        }  # fmt: skip
        if self.size is not None and self.size[0] * self.size[1] <= num_clusters * PATCH**2:
            cells = f"{self.size[0] // PATCH} x {self.size[1] // PATCH}"
            raise ValueError(
                f"size {size} gives {cells} patches, too few for {num_clusters} clusters"
            )

    def config(self) -> dict[str, Any]:
        return {**self._config, "size": None if self.size is None else list(self.size)}

    def to_dict(self) -> dict[str, Any]:
        """As of every network; without what matters in training alone."""
        return {k: v for k, v in super().to_dict().items() if k != "trainable_blocks"}

    @property
    def vit(self) -> DINOv2:
        """The backbone."""
        vit = self.backbone["model"]
        assert isinstance(vit, DINOv2)
        return vit

    @property
    def descriptor_size(self) -> int:
        """Values of a descriptor: 8448 in the published network."""
        return self.aggregator.descriptor_size

    def load_backbone(self, source: Any) -> SALAD:
        """Load DINOv2's own weights, where training starts; the head keeps what it has.

        Args:
            source: published file (`dinov2_vitb14_pretrain.pth`), or a state dict.

        Raises ValueError as `load_official` does.
        """
        self.vit.load_pretrained(source)
        return self

    def parameters_to_train(self) -> list[nn.Parameter]:
        """The last `trainable_blocks` blocks, the final norm and the head."""
        return [each for each in self.parameters() if each.requires_grad]

    def preprocess(self, image: Any) -> Tensor:
        """(1, 3, h, w) float32 of an image (H, W, 3) RGB or (H, W), uint8: squashed to `size` with
        Pillow's bilinear filter, which averages where it shrinks; ImageNet mean and deviation."""
        pixels = image if self.size is None else squashed(image, self.size)
        return normalised(pixels).to(self.device)

    def forward(self, images: Tensor) -> Tensor:
        """(B, descriptor_size) unit vectors of preprocessed images (B, 3, h, w).

        Raises ValueError for sides that are no multiple of 14, and where there are no more patches
        than clusters.
        """
        return self.aggregator(*self.vit(images))

    def assignment(self, images: Tensor) -> Tensor:
        """(B, m + 1, n) log assignment of the n patches, row by row, to m clusters and, last, the
        dustbin; errors as of `forward`."""
        return self.aggregator.log_assignment(self.vit(images)[0])

    def global_descriptor(self, image: Any) -> Float32:
        """(descriptor_size,) unit vector of an image (H, W, 3) RGB or (H, W), uint8, or of a file."""
        return self.global_descriptors([image])[0]

    def global_descriptors(
        self, images: Iterable[Any], *, batch_size: int = 16, half: bool = False
    ) -> Float32:
        """(V, descriptor_size) float32 unit vectors of V images or image files, read as they are needed.

        Args:
            images: arrays (H, W, 3) RGB or (H, W), uint8, and file names. Without `size` those of one
                shape that follow each other share a batch.
            batch_size: images that go through the network at once.
            half: float16 on a GPU, bfloat16 on the CPU, for all but the transport and the sums.

        Raises:
            ValueError, TypeError: what `preprocess` and `forward` refuse, with the index of the image.
        """
        if isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 4) != 4:
            raise TypeError("images must be a list of images; global_descriptor takes one")
        if not isinstance(images, Iterable):
            raise TypeError(f"images must be a list of images, got {type(images).__name__}")
        batch_size = _checks.integer("batch_size", batch_size, 1)
        found = [np.zeros((0, self.descriptor_size), np.float32)]
        with self.evaluating(half=bool(half)):
            for batch in self._batches(images, batch_size):
                found.append(as_numpy(self(batch)))
        return np.concatenate(found)

    def heat_map(self, image: Any) -> Float32:
        """(h, w) in [0, 1]: share of each patch that is *not* assigned to the dustbin (thesis, Fig. 4.3).

        `image` as for `global_descriptor`; `heat_map.draw_heat_map` makes a picture of it. The mean is
        about num_clusters / (h w): every cluster takes one patch's worth.
        """
        with self.evaluating():
            (pixels,) = self._batches([image], 1)
            rows, columns = self.vit.grid(pixels)
            dustbin = self.assignment(pixels)[0, -1].exp()
        return as_numpy((1 - dustbin).clamp(0, 1).view(rows, columns))

    def _batches(self, images: Iterable[Any], batch_size: int) -> Iterator[Tensor]:
        """Preprocessed images (B, 3, h, w), in order."""
        batch: list[Tensor] = []
        for index, image in enumerate(images):
            try:
                is_file = isinstance(image, (str, os.PathLike))
                pixels = self.preprocess(read_image(image) if is_file else image)
                self.vit.grid(pixels)
            except (ValueError, TypeError) as error:
                raise type(error)(f"images[{index}]: {error}") from None
            if batch and (len(batch) == batch_size or batch[0].shape != pixels.shape):
                yield torch.cat(batch)
                batch = []
            batch.append(pixels)
        if batch:
            yield torch.cat(batch)


class CliqueMining(SALAD):
    """The same network, trained on batches of cliques (Izquierdo, Civera, "Close, but not there", ECCV
    2024). The official file is a Lightning checkpoint."""

    model_name: ClassVar[str] = "cliquemining"
    licence = Licence(
        code="GPL-3.0",
        weights="none of their own, linked from the GPL-3.0 repository; the DINOv2 weights that training "
        "starts from are Apache-2.0; trained on GSV-Cities and MSLS, whose terms are non-commercial",
        note="not shipped here; commercial use needs a look at the terms of MSLS",
    )


def _image_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width); ValueError that names the multiple of 14."""
    if size is None:
        return None
    sides = list(size) if isinstance(size, Sequence) else [size, size]
    try:
        height, width = (_checks.integer("size", s, PATCH) for s in sides)
        fits = height % PATCH == width % PATCH == 0
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"size must be a multiple of {PATCH}, or two (height, width), got {size!r}"
        )
    return height, width
