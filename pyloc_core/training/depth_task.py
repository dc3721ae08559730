# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSAnywhere as the loop trains and judges it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyloc_core.depth.metrics import benchmark_errors, mean_errors
from pyloc_core.models.mvsanywhere.cameras import MULTIPLE, checked_cameras
from pyloc_core.models.mvsanywhere.network import MVSAnywhere
from pyloc_core.models.mvsanywhere.prediction import DepthPrediction
from pyloc_core.training.depth_batches import Scenes, plain_tuple
from pyloc_core.training.depth_changes import has_depth
from pyloc_core.training.depth_loss import DepthLosses
from pyloc_core.training.distributed import Processes
from pyloc_core.training.loop import Call
from pyloc_core.training.loss import Batch

# First part of a parameter's name to the group of its rate.
_PARTS = {
    "encoder": "mono",
    "matching_model": "matching",
    "cost_volume": "matching",
    "cost_volume_net": "decoder",
    "depth_decoder": "decoder",
}


class DepthTask(nn.Module):
    """A network with its losses: tuples in, losses (B,) by name out.

    Where a tuple's "mirror" is set, the image encoders, the volume's transformer and the decoder see it
    mirrored, and what they give is mirrored back: the volume in between, with its cameras, is not. (With
    the cameras mirrored, too, that is another tuple: `depth_changes.mirrored`.)

    Args:
        network: `MVSAnywhereDot` or `MVSAnywhereHero`.
        losses: with their weights.
    """

    def __init__(self, network: MVSAnywhere, losses: DepthLosses | None = None) -> None:
        super().__init__()
        self.network = network
        self.losses = losses or DepthLosses()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters by the "part" that `DepthOptions.group_rate` knows."""
        groups: dict[str, list[nn.Parameter]] = {"matching": [], "mono": [], "decoder": []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups[_PARTS[name.split(".")[0]]].append(parameter)
        return [{"params": found, "part": part} for part, found in groups.items() if found]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        log_depths, sky_logits = self.predicted(batch)
        with torch.autocast(batch["depth"].device.type, enabled=False):
            return self.losses(
                log_depths, batch["depth"], batch["K_reference"], sky_logits, batch.get("sky")
            )

    def predicted(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Log depth and sky logits (B, 1, h, w) at four scales, in the known range."""
        reference, sources = batch["reference"], batch["sources"]
        if reference.shape[2] % MULTIPLE or reference.shape[3] % MULTIPLE:
            raise ValueError(
                f"images must have sides that are multiples of {MULTIPLE} to train on, got "
                f"{tuple(reference.shape[2:])}"
            )
        network, b, v = self.network, *sources.shape[:2]
        sizes = tuple((x.shape[-2], x.shape[-1]) for x in (reference, sources))
        cameras = checked_cameras(
            (batch["K_reference"], batch["K_sources"], batch["source_from_reference"]),
            (sizes[0], sizes[1]), (b, v), device=reference.device, look=False,
        )  # fmt: skip
        flip = batch["mirror"]
        seen = _turned(reference, flip)
        of_sources = network.matching_features(_turned(sources, flip).flatten(0, 1)).unflatten(
            0, (b, v)
        )
        near, far = batch["near"], batch["far"]
        volume = network.volume(
            _turned(network.matching_features(seen), flip), _turned(of_sources, flip), cameras,
            near, far,
        )  # fmt: skip
        tokens = network.cost_volume_net(_turned(volume, flip), network.mono_features(seen))
        logits, sky = network.depth_decoder(tokens)
        kind = torch.promote_types(reference.dtype, torch.float32)
        low, span = (x.to(kind).view(-1, 1, 1, 1) for x in (near.log(), (far / near).log()))
        log_depths = [low + span * _turned(each, flip).to(kind).sigmoid() for each in logits]
        return log_depths, [_turned(each, flip).to(kind) for each in sky]

    def estimated(self, batch: Batch, *, known_range: bool = False) -> DepthPrediction:
        """As the network is used: the range of the cameras and one refinement, or the known range."""
        given = (batch["near"], batch["far"]) if known_range else None
        return self.network(
            batch["reference"], batch["sources"], batch["K_reference"], batch["K_sources"],
            batch["source_from_reference"], depth_range=given,
            refinements=0 if known_range else None,
        )  # fmt: skip


class DepthJudge:
    """Errors on held-out scenes, of which the first view is the reference (Robust Multi-View Depth
    benchmark: mean relative error and share of pixels within 3 %, per image, then over images). A scene
    whose first view has no known depth is passed over.

    Args:
        scenes: held-out ones.
        sources: of a tuple; fewer where a scene has fewer views.
        batch: tuples at a time.
        known_range: judge in the known range instead of that of the cameras with one refinement, which is
            how the network is used.
    """

    def __init__(
        self, scenes: Scenes, *, sources: int = 7, batch: int = 8, known_range: bool = False
    ) -> None:
        if not len(scenes):
            raise ValueError("scenes must hold at least one held-out scene")
        self.scenes, self.sources, self.batch = scenes, sources, batch
        self.known_range = known_range

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, call: Call, group: Processes
    ) -> tuple[float, dict[str, float]]:
        assert isinstance(model, DepthTask)

        def estimated(batch: Batch) -> DepthPrediction:
            return model.estimated(batch, known_range=self.known_range)

        own = list(range(group.rank, len(self.scenes), group.count))
        sums = torch.zeros(3, dtype=torch.float64)
        for start in range(0, len(own), self.batch):
            scenes = [self.scenes[i] for i in own[start : start + self.batch]]
            items = [plain_tuple(s, self.sources) for s in scenes if has_depth(s.depth[0])]
            if not items:
                continue
            batch = {k: torch.stack([item[k] for item in items]) for k in items[0]}
            depth = call(estimated, {k: v.to(group.device) for k, v in batch.items()}).depth
            sums += _errors(depth, batch["depth"])
        rel, inliers, count = group.total(sums.to(group.device)).tolist()
        if not count:
            raise ValueError("no held-out scene has a pixel of known depth in its first view")
        values = {"abs_rel": rel / count, "inliers": inliers / count}
        return values["abs_rel"], values


def _errors(depth: Tensor, truth: Tensor) -> Tensor:
    """Sums over images of relative error and inliers, in percent, and the number of images."""
    each = [
        benchmark_errors(d.float().cpu().numpy(), t.numpy(), clip=None)
        for d, t in zip(depth, truth)
    ]
    mean = mean_errors(each)
    count = sum(1 for one in each if one.pixels)
    return torch.tensor([count * mean.abs_rel, count * mean.inliers, count], dtype=torch.float64)


def _turned(values: Tensor, flip: Tensor) -> Tensor:
    """Left and right exchanged in the items (B, ...) that `flip` (B,) marks."""
    shape: Sequence[int] = (-1, *(1,) * (values.dim() - 1))
    return torch.where(flip.view(shape), values.flip(-1), values)
