# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What every wrapper around a published network has: loading, preprocessing, licences."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy.typing as npt
import torch
from torch import nn

from pyloc_core.models.checkpoint import Checkpoint, State, fit_state, read_checkpoint
from pyloc_core.models.pixels import normalised

NetworkT = TypeVar("NetworkT", bound="Network")


@dataclass(frozen=True)
class Licence:
    """Terms of a published system; this package ships neither its code nor its weights.

    Attributes:
        code: of the published program. The implementation here is an independent one.
        weights: of the published weights, which you get from their authors.
        note: what follows for use.
    """

    code: str
    weights: str
    note: str


class Network(nn.Module):
    """Base of the wrappers. Parameters and buffers bear the names of the published checkpoint.

    A subclass sets `model_name`, `licence`, and `prefixes` where published files put something before
    the names. It overrides `adapt` where the file decides the architecture. Networks are made in
    evaluation mode.
    """

    model_name: ClassVar[str]
    licence: ClassVar[Licence]
    prefixes: ClassVar[tuple[str, ...]] = ()
    in_colour: ClassVar[bool] = True  # maps are built from images in colour (`Descriptor`)

    def config(self) -> dict[str, Any]:
        """Options that `create` would need to build the same network."""
        return {}

    def adapt(self, checkpoint: Checkpoint) -> None:
        """Change the architecture to the one that the checkpoint was made for. Default: nothing."""

    def load_official(self: NetworkT, source: Any, *, inert: Collection[str] = ()) -> NetworkT:
        """Load the published weights.

        Args:
            source: file in the published container, file of `pyloc-core convert-checkpoint`, or a state
                dict with the published names (torch tensors or NumPy arrays).
            inert: see `read_checkpoint`.

        Returns:
            The network itself, in evaluation mode.

        Raises:
            ValueError: what `read_checkpoint` refuses; entries that are missing, unexpected or of
                another shape, counted and named. The network keeps its weights then.
        """
        self.load_state_dict(self.fitted(read_checkpoint(source, inert=inert)), strict=True)
        return self.eval()

    def fitted(self, checkpoint: Checkpoint) -> State:
        """The weights of a checkpoint under the network's own names, after `adapt`. ValueError as
        `load_official` raises it."""
        self.adapt(checkpoint)
        own = self.state_dict()
        expected = {name: tuple(value.shape) for name, value in own.items()}
        try:
            state = fit_state(checkpoint.state, expected, self.model_name, prefixes=self.prefixes)
            for name, value in state.items():
                if value.is_floating_point() != own[name].is_floating_point():
                    raise ValueError(f"{name} is {value.dtype} and not {own[name].dtype}")
        except ValueError as error:
            raise ValueError(f"{checkpoint.source}: {error}") from None
        return state

    def preprocess(self, image: Any) -> torch.Tensor:
        """(1, 3, H, W) float32 on the network's device, of an image (H, W, 3) RGB or (H, W) grey, uint8.

        Values / 255, less the mean and over the standard deviation of ImageNet; no resize unless the
        published program does one.
        """
        return normalised(image).to(self.device)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @contextmanager
    def evaluating(self, *, half: bool = False) -> Iterator[None]:
        """Evaluation mode without gradients; afterwards every module is in the mode that it was in, so
        that results asked for in the middle of training are those of the trained network.

        half: float16 on a GPU, bfloat16 on the CPU, where autocast holds it to be enough.
        """
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=half):
                yield
        finally:
            for module, training in modes:
                module.training = training

    def weights_digest(self) -> str:
        """Eight hexadecimal digits that differ when the weights do: saved maps are tied to them."""
        crc = 0
        for name, value in sorted(self.state_dict().items()):
            crc = zlib.crc32(name.encode(), crc)
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            crc = zlib.crc32(raw.numpy(), crc)
        return f"{crc:08x}"

    def to_dict(self) -> dict[str, Any]:
        """Name, options and digest of the weights: what tells whether a map fits (`Descriptor`)."""
        return {"name": self.model_name, **self.config(), "weights": self.weights_digest()}


def initialise(network: nn.Module, seed: int) -> None:
    """He-normal weights for convolutions and linear layers, zero biases; nothing global is touched.

    Source: He et al., "Delving deep into rectifiers", ICCV 2015.
    """
    generator = torch.Generator().manual_seed(int(seed))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            with torch.no_grad():
                module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


def as_numpy(values: torch.Tensor) -> npt.NDArray[Any]:
    """On the host; float32."""
    return values.detach().float().cpu().numpy()
