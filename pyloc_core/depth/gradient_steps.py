# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient steps on some parameters of a network that leave everything else of it as it was.

Test-time refinement, by structure from motion or by photometric losses, is this loop with a loss. torch
is imported when a network comes, and not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _checks
from pyloc_core._extras import require


@dataclass(frozen=True)
class StepOptions:
    """How parameters are stepped.

    Attributes:
        steps: of Adam, one image each.
        learning_rate: of Adam, otherwise with torch's defaults.
        seed: of the order of the images, and of dropout where that runs.
        train_mode: put the modules into training mode, as SfM-TTR publishes it: BatchNorm then takes the
            statistics of the one image and moves its running ones. By default all modules are in evaluation
            mode: normalisation and dropout stay still.
    """

    steps: int = 200
    learning_rate: float = 1e-4
    seed: int = 0
    train_mode: bool = False

    def __post_init__(self) -> None:
        _checks.integer("steps", self.steps, 1)
        _checks.number("learning_rate", self.learning_rate, positive=True)
        _checks.integer("seed", self.seed, 0)
        if not isinstance(self.train_mode, bool):
            raise TypeError(f"train_mode must be True or False, got {self.train_mode!r}")


class Snapshot:
    """Copies of parameters, and of all buffers of modules."""

    def __init__(self, parameters: Sequence[Any], modules: Sequence[Any]) -> None:
        tensors = [*parameters, *(b for m in modules for b in m.buffers())]
        self._kept = [(t, t.detach().clone()) for t in {id(t): t for t in tensors}.values()]

    def restore(self) -> None:
        torch = require("torch", "refining a network")
        with torch.no_grad():
            for tensor, value in self._kept:
                tensor.copy_(value)

    @contextlib.contextmanager
    def on_error(self) -> Iterator[None]:
        """Restores when something is raised inside, Ctrl-C included."""
        try:
            yield
        except BaseException:
            self.restore()
            raise


@dataclass(frozen=True, eq=False)
class Stepped:
    """What the steps did.

    Attributes:
        losses: (steps,) float64.
        visited: (steps,) int64, which item each step took.
    """

    losses: npt.NDArray[np.float64]
    visited: npt.NDArray[np.int64]
    _before: Snapshot = field(repr=False)

    def restore(self) -> None:
        """Write the parameters and buffers from before the refinement back."""
        self._before.restore()


def trainable(parameters: Iterable[Any]) -> list[Any]:
    """The parameters, each once. Errors for what cannot be stepped."""
    torch = require("torch", "refining a network")
    if isinstance(parameters, torch.Tensor):
        raise TypeError("parameters must be several tensors, as module.parameters() gives them")
    unique = list({id(p): p for p in parameters}.values())
    for parameter in unique:
        if not isinstance(parameter, torch.Tensor) or not parameter.is_leaf:
            raise TypeError("parameters must hold leaf tensors, as module.parameters() gives them")
        if not parameter.is_floating_point():
            raise TypeError(f"parameters must be of floating point, got {parameter.dtype}")
    if not unique:
        raise ValueError("parameters is empty: a generator that was used before?")
    return unique


def modules_of(network: Any, modules: Sequence[Any] | None) -> list[Any]:
    """The modules whose mode and buffers are held: the given ones, or the network itself."""
    nn = require("torch.nn", "refining a network")
    if not callable(network):
        raise TypeError(f"network must be callable, got {type(network).__name__}")
    if modules is None:
        if not isinstance(network, nn.Module):
            raise ValueError(
                "network is a function: pass modules=[...], the torch modules that it calls, so that "
                "their normalisation layers can be held still"
            )
        return [network]
    if not all(isinstance(module, nn.Module) for module in modules):
        raise TypeError("modules must hold torch modules")
    return list(modules)


@contextlib.contextmanager
def mode(modules: Sequence[Any], training: bool | None) -> Iterator[None]:
    """All modules in evaluation or in training mode (None: as they are); afterwards each as it was."""
    flags = {id(m): (m, m.training) for top in modules for m in top.modules()}
    try:
        if training is not None:
            for module in modules:
                module.train(training)
        yield
    finally:
        for module, flag in flags.values():
            module.training = flag


@contextlib.contextmanager
def seeded(seed: int, device: Any) -> Iterator[None]:
    """torch's generators (dropout's) start from the seed inside, and go on as before afterwards."""
    torch = require("torch", "refining a network")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _only(parameters: Sequence[Any], modules: Sequence[Any]) -> Iterator[None]:
    """Gradients for these parameters and no others; afterwards `requires_grad` and `grad` as before."""
    chosen = {id(p) for p in parameters}
    others = {id(p): p for m in modules for p in m.parameters() if id(p) not in chosen}
    every = [*parameters, *others.values()]
    flags = [(p, p.requires_grad, p.grad) for p in every]
    try:
        for p in every:
            p.requires_grad_(id(p) in chosen)
        yield
    finally:
        for p, flag, grad in flags:
            p.requires_grad_(flag)
            p.grad = grad


def take_steps(
    parameters: Sequence[Any],
    modules: Sequence[Any],
    count: int,
    loss_of: Callable[[int], Any],
    options: StepOptions,
    progress: bool,
) -> Stepped:
    """Adam on `loss_of(item)` for items 0 to count - 1 in epochs, each in a new order; None steps nothing.

    Raises ValueError when the loss does not depend on any of the parameters and FloatingPointError when it, or
    what a step makes of the parameters, is not finite; the parameters and buffers are then as before.
    """
    torch = require("torch", "refining a network")
    order = _order(count, options)
    done = Stepped(np.zeros(options.steps), order, Snapshot(parameters, modules))
    optimizer = torch.optim.Adam(parameters, lr=options.learning_rate)
    with (
        done._before.on_error(), mode(modules, options.train_mode), _only(parameters, modules),
        torch.enable_grad(), seeded(options.seed, parameters[0].device),
    ):  # fmt: skip
        for step in _shown(options.steps, progress):
            done.losses[step] = _step(optimizer, parameters, loss_of(int(order[step])), step)
        # A finite loss may have a gradient that is not, and no loss comes after the last step.
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise FloatingPointError("the last step made parameters that are not finite")
    return done


def _step(optimizer: Any, parameters: Sequence[Any], loss: Any, step: int) -> float:
    torch = require("torch", "refining a network")
    if loss is None:
        return 0.0
    value = float(loss.detach())
    if not np.isfinite(value):
        raise FloatingPointError(f"the loss of step {step} is not finite: {value}")
    gradients = [None] * len(parameters)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    if all(g is None for g in gradients):
        raise ValueError(
            "the depth does not depend on any of the parameters: are they the network's own, and is the "
            "network called without torch.no_grad()?"
        )
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient
    optimizer.step()
    return value


def _order(count: int, options: StepOptions) -> npt.NDArray[np.int64]:
    """Items by step: every item once per epoch."""
    generator = np.random.Generator(np.random.Philox(key=options.seed))
    epochs = [generator.permutation(count) for _ in range(-(-options.steps // count))]
    return np.concatenate(epochs)[: options.steps]


def _shown(steps: int, progress: bool) -> Iterable[int]:
    if not progress:
        return range(steps)
    tqdm = require("tqdm", "a progress bar").tqdm
    return tqdm(range(steps), desc="Refining", unit="step")  # type: ignore[no-any-return]


def predicted_depth(network: Callable[[Any], Any], image: Any) -> Any:
    """The depth map (H, W) of a network's answer, which may have leading dimensions of size one."""
    torch = require("torch", "refining a network")
    depth = network(image)
    if not isinstance(depth, torch.Tensor):
        raise TypeError(f"network must give a torch tensor, got {type(depth).__name__}")
    if depth.ndim < 2 or any(size != 1 for size in depth.shape[:-2]) or 0 in depth.shape:
        raise ValueError(
            f"network must give one depth map, (H, W) or (1, 1, H, W), got {tuple(depth.shape)}"
        )
    depth = depth.reshape(depth.shape[-2:])
    return depth if depth.dtype == torch.float64 else depth.float()
