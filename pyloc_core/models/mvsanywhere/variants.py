# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The two published variants of MVSAnywhere: volumes of dot products, and of learned scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyloc_core.models.mvsanywhere.cameras import Cameras
from pyloc_core.models.mvsanywhere.network import MVSAnywhere
from pyloc_core.ops.metadata_cost_volume import metadata_cost_volume
from pyloc_core.ops.plane_sweep import plane_sweep


class MVSAnywhereDot(MVSAnywhere):
    """The variant whose volume is the mean over the sources of the features' dot products
    (`pyloc_core.plane_sweep`). A change of the scene's scale changes the depths by that factor.

    Args: as of `MVSAnywhere`.
    """

    model_name: ClassVar[str] = "mvsanywhere_dot"

    def volume(
        self, of_reference: Tensor, of_sources: Tensor, cameras: Cameras, near: Tensor, far: Tensor
    ) -> Tensor:
        K_reference, K_sources = cameras.of_maps
        return plane_sweep(
            of_reference, of_sources, K_reference, K_sources, cameras.source_from_reference,
            self.planes(near, far), num_valid=cameras.num_valid,
        )  # fmt: skip


class MetadataMLP(nn.Module):
    """2 C + 14 values of a sample to its score and the logarithm of its weight."""

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * channels + 14, hidden),
            nn.LeakyReLU(0.01),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.01),
            nn.Linear(hidden, 2),
        )

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Matrix and bias of the three layers, as `metadata_cost_volume` takes them."""
        return tuple(self.net.parameters())


class MVSAnywhereHero(MVSAnywhere):
    """The variant whose volume an MLP makes of each sample's features and geometry, weighted over the
    sources (`pyloc_core.metadata_cost_volume`); "ours" in the paper.

    Args:
        scale_invariant: divide the translations by the longest before the pose distance, as the thesis
            says. The published program does not, and its weights were trained without: there a change of
            the scene's scale changes the balance of translation and rotation.
        Others as of `MVSAnywhere`.
    """

    model_name: ClassVar[str] = "mvsanywhere_hero"

    def __init__(
        self,
        *,
        backbone: str | Sequence[int] = "vitb14",
        width: int = 128,
        matching_channels: int = 16,
        matching_width: int = 64,
        num_depths: int = 64,
        scale_invariant: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            backbone=backbone, width=width, matching_channels=matching_channels,
            matching_width=matching_width, num_depths=num_depths, seed=seed,
        )  # fmt: skip
        self.scale_invariant = bool(scale_invariant)
        self._config["scale_invariant"] = self.scale_invariant

    def _volume_parts(self, channels: int) -> nn.ModuleDict:
        return nn.ModuleDict({"mlp": MetadataMLP(channels)})

    def volume(
        self, of_reference: Tensor, of_sources: Tensor, cameras: Cameras, near: Tensor, far: Tensor
    ) -> Tensor:
        K_reference, K_sources = cameras.of_maps
        mlp = self.cost_volume["mlp"]
        assert isinstance(mlp, MetadataMLP)
        return metadata_cost_volume(
            of_reference, of_sources, K_reference, K_sources, cameras.source_from_reference,
            self.planes(near, far), mlp.weights, depth_limits=torch.stack([near, far], -1),
            num_valid=cameras.num_valid, scale_invariant=self.scale_invariant,
        )  # fmt: skip
