# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The coarse and the fine network of NRE, with the names of the published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from pyloc_core.models.checkpoint import Checkpoint, State, read_checkpoint
from pyloc_core.models.inception import MIXED, projected_trunk, trunk_stride
from pyloc_core.models.network import Licence, Network, initialise
from pyloc_core.models.nre.preprocessing import FINE_LIMIT, coarse_limit, image_tensor

Stage = Literal["coarse", "fine"]
NRENetworkT = TypeVar("NRENetworkT", bound="NRENetwork")


@dataclass(frozen=True)
class NREConfig:
    """Which network it is.

    Attributes:
        stage: "coarse" or "fine".
        cut: last layer of the trunk, one of `inception.MIXED`; the fine network ends at Mixed_5d.
        no_maxpool: coarse only: without the second max-pooling, half the stride.
        map_size: coarse only: cells along the longer side of the largest map ("image.resize").
    """

    stage: Stage = "coarse"
    cut: str = "Mixed_7a"
    no_maxpool: bool = False
    map_size: int = 60

    def __post_init__(self) -> None:
        if self.stage not in ("coarse", "fine"):
            raise ValueError(f'stage must be "coarse" or "fine", got {self.stage!r}')
        if self.stage == "fine":
            # The published builder stops at Mixed_5d whatever layer its file names.
            object.__setattr__(self, "cut", "Mixed_5d")
            object.__setattr__(self, "no_maxpool", False)
        elif self.cut not in MIXED:
            raise ValueError(f"cut must be one of {', '.join(MIXED)}, got {self.cut!r}")
        coarse_limit(self.map_size, self.cut)

    @property
    def stride(self) -> int:
        """Image pixels per cell."""
        return trunk_stride(self.cut, no_maxpool=self.no_maxpool, fine=self.stage == "fine")

    @property
    def limit(self) -> int:
        """Longest side of the images that the published program gives to this network."""
        if self.stage == "fine":
            return FINE_LIMIT
        return coarse_limit(self.map_size, self.cut, self.no_maxpool)


LICENCE = Licence(
    code="CC0 1.0",
    weights="CC0 1.0: they lie in the repository of the code",
    note="free to use and to pass on, commercially too; trained on MegaDepth",
)


class NRENetwork(Network):
    """Dense raw descriptors of an image: no normalisation, no temperature.

    Germain, Lepetit and Bourmaud, "Neural Reprojection Error: Merging Feature Learning and Camera Pose
    Estimation", CVPR 2021.
    """

    licence = LICENCE

    def __init__(self, options: NREConfig, seed: int) -> None:
        super().__init__()
        self.options = options
        self.cnn, self.channels = projected_trunk(
            options.cut, no_maxpool=options.no_maxpool, fine=options.stage == "fine"
        )
        initialise(self, seed)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(B, D, h, w) of normalised images (B, 3, H, W); h = H / stride rounded up, w likewise."""
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
            raise ValueError(f"image must be (B, 3, H, W) and not empty, got {tuple(image.shape)}")
        features: Tensor = self.cnn(image)
        return features

    def preprocess(self, image: Any) -> Tensor:
        """(1, 3, H, W) normalised, within the published limit of this network (`NREConfig.limit`)."""
        return image_tensor(image, self.options.limit).to(self.device)

    def load_official(
        self: NRENetworkT, source: Any, *, inert: Collection[str] = ()
    ) -> NRENetworkT:
        """Load a published file, or a state dict with its names; returns the network.

        The cut, the missing max-pooling and the size of the maps are those of the file: its tensors
        decide, its hyper-parameters fill in what they cannot say.

        Raises ValueError for a file of the other stage, and as `Network.load_official`; the network
        keeps its weights then.
        """
        return self.load_checkpoint(read_checkpoint(source, inert=inert))

    def load_checkpoint(self: NRENetworkT, checkpoint: Checkpoint) -> NRENetworkT:
        """`load_official` of a file that was read already."""
        fresh = self._network_for(checkpoint)
        fresh.load_state_dict(Network.fitted(fresh, checkpoint))
        device = self.device
        self.options, self.channels, self.cnn = fresh.options, fresh.channels, fresh.cnn
        return self.to(device).eval()

    def fitted(self, checkpoint: Checkpoint) -> State:
        return Network.fitted(self._network_for(checkpoint), checkpoint)

    def _network_for(self, checkpoint: Checkpoint) -> NRENetwork:
        """One of the file's architecture; ValueError when the file holds the other stage."""
        stage = self.options.stage
        found = config_of(checkpoint.state, checkpoint.extra)
        if found is not None and found.stage != stage:
            raise ValueError(
                f"{checkpoint.source} holds the {found.stage} network of NRE and not the {stage} one"
            )
        return network_of(found or self.options)


class NRECoarse(NRENetwork):
    """The coarse network alone. The published weights end at Mixed_6e or at Mixed_7a: the file decides.

    Args: those of `NREConfig`; `seed` of the random weights.
    """

    model_name = "nre_coarse"

    def __init__(
        self, *, cut: str = "Mixed_7a", no_maxpool: bool = False, map_size: int = 60, seed: int = 0
    ) -> None:
        super().__init__(NREConfig("coarse", cut, no_maxpool, map_size), seed)

    def config(self) -> dict[str, Any]:
        return {name: v for name, v in asdict(self.options).items() if name != "stage"}


class NREFine(NRENetwork):
    """The fine network alone: stride 2, 288 channels, 43 pixels seen by a cell."""

    model_name = "nre_fine"

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(NREConfig("fine"), seed)


def network_of(options: NREConfig, seed: int = 0) -> NRENetwork:
    """A network with random weights."""
    if options.stage == "fine":
        return NREFine(seed=seed)
    return NRECoarse(
        cut=options.cut, no_maxpool=options.no_maxpool, map_size=options.map_size, seed=seed
    )


def config_of(
    state: Mapping[str, Any], container: Mapping[str, Any] | None = None
) -> NREConfig | None:
    """Which network a state dict belongs to; None where it is none of NRE's.

    The modules are counted: the first Mixed block stands at 5 in the fine network, at 6 in a coarse one
    without the second max-pooling and at 7 otherwise; the number of blocks gives the cut (a published
    coarse network ends at Mixed_6e or at Mixed_7a, which its text does not settle). `container`: what
    the file holds beside the tensors, with the size of the maps.
    """
    at = sorted(
        {int(m[1]) for key in state if (m := re.search(r"(?:^|\.)cnn\.(\d+)\.branch", key))}
    )
    if not at or at[0] not in (5, 6, 7) or at != list(range(at[0], at[0] + len(at))):
        return None
    if len(at) > len(MIXED):
        return None
    stage: Stage = "fine" if at[0] == 5 else "coarse"
    found = NREConfig(stage, MIXED[len(at) - 1], no_maxpool=at[0] == 6)
    size = _map_size(container or {})
    return found if size is None else replace(found, map_size=size)


def _map_size(container: Mapping[str, Any]) -> int | None:
    """`hyper_parameters["image"]["resize"]` of a Lightning file, where it is a whole number."""
    parameters = container.get("hyper_parameters")
    image = parameters.get("image") if isinstance(parameters, Mapping) else None
    size = image.get("resize") if isinstance(image, Mapping) else None
    if isinstance(size, bool) or not isinstance(size, (int, float)):
        return None
    return int(size) if size >= 1 and float(size).is_integer() else None
