# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Both networks of NRE as one descriptor for `Map` and `Localizer`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pyloc_core.localization.features import Features, Float32
from pyloc_core.localization.localizer import Localizer
from pyloc_core.localization.map import Map
from pyloc_core.models.checkpoint import Checkpoint, State, read_checkpoint
from pyloc_core.models.interpolate import at_scales, resized
from pyloc_core.models.network import Network, as_numpy
from pyloc_core.models.nre.network import LICENCE, NRECoarse, NREFine, NRENetwork, config_of
from pyloc_core.models.nre.preprocessing import interpolate_descriptors, keypoints_to_features
from pyloc_core.models.pixels import as_rgb, normalised

_STAGES = ("coarse", "fine")


class NRE(Network):
    """Coarse and fine descriptors: raw vectors, compared by their dot product, no temperature.

    Args:
        cut, no_maxpool, map_size: of the coarse network, see `NREConfig`; a loaded file decides.
        compat: None puts every cell where the network sees: cell i of stride s around pixel i s, in
            the map and in the photo. "published" does what the released program does, for
            `PublishedLocalizer`: images within the networks' limits, keypoints scaled without the half
            pixel that cameras get, descriptors that fade at the right and lower border.
        seed: of the random weights.

    Source: Germain, Lepetit and Bourmaud, "Neural Reprojection Error: Merging Feature Learning and
    Camera Pose Estimation", CVPR 2021.
    """

    model_name = "nre"
    licence = LICENCE
    in_colour = True
    beta = (1.0, 1.0)

    def __init__(
        self,
        *,
        cut: str = "Mixed_7a",
        no_maxpool: bool = False,
        map_size: int = 60,
        compat: Literal["published"] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if compat not in (None, "published"):
            raise ValueError(f'compat must be None or "published", got {compat!r}')
        self.compat = compat
        self.coarse = NRECoarse(cut=cut, no_maxpool=no_maxpool, map_size=map_size, seed=seed)
        self.fine = NREFine(seed=seed + 1)
        self.eval()

    def config(self) -> dict[str, Any]:
        return {**self.coarse.config(), "compat": self.compat}

    def load_official(self, source: Any, *, inert: Collection[str] = ()) -> NRE:
        """Load one stage or both; which one a file holds is read from its tensors.

        Args:
            source: a published file or a state dict with its names; a mapping "coarse" and "fine" to
                either; a folder with coarse.pth and fine.pth; or both stages in one state dict, named
                `coarse.*` and `fine.*` as this module names them.
            inert: see `read_checkpoint`.

        Raises ValueError as `NRENetwork.load_official`, and for weights that belong to neither stage,
        or under "coarse" to the fine one. Nothing is loaded then.
        """
        if isinstance(source, Mapping) and source and set(source) <= set(_STAGES):
            given = {stage: read_checkpoint(source[stage], inert=inert) for stage in source}
        elif isinstance(source, (str, Path)) and Path(source).is_dir():
            paths = {stage: Path(source) / f"{stage}.pth" for stage in _STAGES}
            given = {stage: read_checkpoint(path, inert=inert) for stage, path in paths.items()}
        else:
            given = _by_stage(read_checkpoint(source, inert=inert))
        # Into copies first: one bad file leaves both stages as they are.
        loaded: dict[str, NRENetwork] = {}
        for stage, checkpoint in given.items():
            fresh = NRECoarse() if stage == "coarse" else NREFine()
            loaded[stage] = fresh.load_checkpoint(checkpoint).to(self.device)
        for stage, network in loaded.items():
            setattr(self, stage, network)
        return self.eval()

    def fitted(self, checkpoint: Checkpoint) -> State:
        """The weights of the stages that a checkpoint holds, as `coarse.*` and `fine.*`."""
        return {
            f"{stage}.{name}": value
            for stage, part in _by_stage(checkpoint).items()
            for name, value in getattr(self, stage).fitted(part).items()
        }

    def localizer(self, model: Map, options: Any = None) -> Any:
        """What localizes photos against a map built with this descriptor: a `Localizer`, with
        `LocalizerOptions`; or, with compat="published", the released program's steps, a
        `PublishedLocalizer` with `PublishedOptions`. Both have `localize(image, camera, prior, seed=)`."""
        if self.compat is None:
            return Localizer(model, self, options=options)
        from pyloc_core.models.nre.localizer import PublishedLocalizer

        return PublishedLocalizer(model, self, options)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coarse and fine features (B, D, h, w) of normalised images (B, 3, H, W)."""
        return self.coarse(image), self.fine(image)

    @torch.inference_mode()
    def dense(self, image: npt.NDArray[Any]) -> tuple[Features, Features]:
        """Coarse and fine level of an image (H, W, 3) RGB or (H, W), uint8."""
        return self._level(self.coarse, image), self._level(self.fine, image)

    @torch.inference_mode()
    def dense_coarse(self, image: npt.NDArray[Any]) -> Features:
        """The first level of `dense` alone."""
        return self._level(self.coarse, image)

    def _level(self, network: NRENetwork, image: npt.NDArray[Any]) -> Features:
        if self.compat is not None:
            values = as_numpy(network(network.preprocess(image))[0])
            return Features(values, np.shape(image)[:2])
        values = as_numpy(network(normalised(image).to(self.device))[0])
        stride = network.options.stride
        begin = (1 - stride) / 2
        covers = (values.shape[1] * stride, values.shape[2] * stride)
        return Features(values, covers, (begin, begin))

    @torch.inference_mode()
    def describe(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> tuple[Float32, Float32]:
        """(N, S, D) of both levels at points (N, 2), image pixels, for S scales."""
        rgb = as_rgb(image)
        if self.compat is None:
            coarse, fine = at_scales(self.dense, rgb, xy, scales)
            return coarse, fine
        shrunk = [self.describe_published(resized(rgb, s), xy, rgb.shape[:2]) for s in scales]
        coarse, fine = (np.stack(level, axis=1) for level in zip(*shrunk))
        return coarse, fine

    @torch.inference_mode()
    def describe_published(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], image_size: tuple[int, int]
    ) -> tuple[Float32, Float32]:
        """(N, D) of both levels as the released program interpolates them, at points (N, 2) of an
        image of `image_size` (H, W), of which `image` is a resized copy."""
        keypoints = np.asarray(xy, np.float64).reshape(-1, 2) - 0.5  # which it counts from 0
        levels = []
        for network in (self.coarse, self.fine):
            features = network(network.preprocess(image))[0]
            cells = keypoints_to_features(keypoints, image_size, features.shape[1:])
            levels.append(as_numpy(interpolate_descriptors(features, cells)))
        return levels[0], levels[1]


def _by_stage(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """The stage of a checkpoint, or both where the names say so."""
    parts: dict[str, dict[str, torch.Tensor]] = {stage: {} for stage in _STAGES}
    for name, value in checkpoint.state.items():
        stage, _, rest = name.partition(".")
        if stage in parts:
            parts[stage][rest] = value
    if sum(len(part) for part in parts.values()) == len(checkpoint.state):
        return {
            stage: Checkpoint(state, checkpoint.extra, checkpoint.leftovers, checkpoint.source)
            for stage, state in parts.items()
            if state
        }
    found = config_of(checkpoint.state)
    if found is None:
        raise ValueError(
            f"{checkpoint.source} holds neither the coarse nor the fine network of NRE: "
            "weights of another model?"
        )
    return {found.stage: checkpoint}
