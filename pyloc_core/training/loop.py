# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: one optimiser, a schedule, checkpoints, early stopping, one or many processes.

It knows neither pairs nor places: a model that turns a batch into losses, a source of batches, a judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyloc_core._extras import require
from pyloc_core.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pyloc_core.training.distributed import Processes, processes
from pyloc_core.training.loss import Batch
from pyloc_core.training.options import LoopOptions

Save = Callable[[nn.Module, Path], None]
# Calls a function of one argument in the run's precision.
Call = Callable[[Callable[[Any], Any], Any], Any]


class BatchSource(Protocol):
    """What a run learns from."""

    def steps(self, group: Processes) -> int:
        """Steps of an epoch. ValueError when the processes cannot share a batch."""

    def batches(self, epoch: int, first: int, group: Processes) -> Iterator[Batch]:
        """This process's part of batch `first` of an epoch and of those after it, on the CPU.

        A batch depends on the seed, the epoch and its number alone, so that a resumed run sees the same.
        """


class Judge(Protocol):
    """What decides which weights are best."""

    def __call__(
        self, model: nn.Module, call: Call, group: Processes
    ) -> tuple[float, dict[str, float]]:
        """A score, smaller is better, and scalars to log; the same on every process."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: steps done, best held-out score (smaller is better; a loss, for pairs), why it
    stopped, held-out score per epoch (of this call), seconds over all calls, whether this is process 0."""

    steps: int
    best: float
    reason: str
    held_out: tuple[float, ...]
    seconds: float
    first: bool = True


def run_training(
    model: nn.Module,
    source: BatchSource,
    judge: Judge,
    folder: str | Path,
    options: LoopOptions,
    *,
    device: str | None = None,
    resume: bool = False,
    save_best: Save | None = None,
    progress_bar: bool = True,
    tensorboard: bool = True,
) -> Outcome:
    """Train a model that turns batches into losses, one or several by name, which are summed.

    Start it under torchrun for several processes: each gets its share of every batch, and the gradients
    are averaged.

    Args:
        folder: checkpoints and TensorBoard files; process 0 writes.
        resume: go on from the folder's checkpoint, with the same bits as without the interruption (on
            the CPU; CUDA's sums may differ in rounding from run to run).
        save_best: called with the model and a path when the judge's score is better than before;
            None writes best.safetensors with the model's state.

    Raises:
        ValueError: a batch that the processes cannot share, float16 without CUDA, a checkpoint that does
            not fit or was made with other options.
        FloatingPointError: a gradient that is not finite.
    """
    with processes(device) as group:
        run = _Run(model, source, judge, Path(folder), options, group)
        run.save_best = save_best or _save_state
        if resume:
            run.load()
        return run.train(progress_bar and group.first, tensorboard and group.first)


class _Run:
    """One run on one process."""

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        judge: Judge,
        folder: Path,
        options: LoopOptions,
        group: Processes,
    ) -> None:
        if options.precision == "float16" and group.device.type != "cuda":
            raise ValueError("precision float16 needs CUDA; bfloat16 works on the CPU as well")
        self.options, self.group, self.folder = options, group, folder
        self.source, self.judge, self.steps = source, judge, source.steps(group)
        self.model = model.to(group.device)
        self.wrapped: nn.Module = self.model
        if group.count > 1:
            self.wrapped = DistributedDataParallel(self.model)
        groups = getattr(self.model, "parameter_groups", self.model.parameters)()
        self.optimizer = options.optimizer(groups)
        scaled = options.precision == "float16"
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=scaled)
        self.at = Progress()
        self.save_best: Save = _save_state
        self.history: list[float] = []

    def _recorded(self) -> dict[str, Any]:
        """What a checkpoint keeps of how it was made: options, and what the source says of itself."""
        return asdict(self.options) | getattr(self.source, "to_dict", dict)()

    def load(self) -> None:
        self.at, saved = load_checkpoint(self.folder, self.model, self.optimizer, self.scaler)
        may_differ = {
            "epochs",
            "max_minutes",
            "workers",
            "log_every",
            "checkpoint_every",
            "patience",
        }
        now = self._recorded()
        for name, value in saved.items():
            if name not in may_differ and now.get(name) != value:
                raise ValueError(
                    f"the checkpoint in {self.folder} was made with {name} = {value!r}, "
                    f"not {now.get(name)!r}"
                )

    def train(self, bar: bool, tensorboard: bool) -> Outcome:
        writer = _writer(self.folder, self.at.step) if tensorboard else None
        start = time.perf_counter() - self.at.seconds
        reason = "all epochs done"
        try:
            while self.at.epoch < self.options.epochs:
                out_of_time = self._epoch(start, bar, writer)
                if out_of_time:
                    reason = "max_minutes reached"
                    if self.at.step_in_epoch:
                        self._judge(writer)
                    break
                self._judge(writer)
                self.at = replace(self.at, epoch=self.at.epoch + 1, step_in_epoch=0)
                self._checkpoint(start)
                if self.at.epochs_without_gain >= self.options.patience:
                    reason = f"no better held-out score in {self.options.patience} epochs"
                    break
        finally:
            if writer is not None:
                writer.close()
        seconds = time.perf_counter() - start
        return Outcome(
            self.at.step, self.at.best, reason, tuple(self.history), seconds, self.group.first
        )

    def _epoch(self, start: float, bar: bool, writer: Any) -> bool:
        """The steps that remain of an epoch; True when the time is up."""
        options, shown = self.options, None
        if bar:
            tqdm = require("tqdm", "a progress bar").tqdm
            shown = tqdm(
                total=self.steps, initial=self.at.step_in_epoch, desc=f"Epoch {self.at.epoch}"
            )
        self.model.train()
        for batch in self._batches():
            losses, norm = self._step(batch)
            self.at.step_in_epoch += 1
            self.at.step += 1
            if writer is not None and self.at.step % options.log_every == 0:
                values = {f"train/{k}": float(v) for k, v in losses.items()}
                values["train/gradient_norm"] = float(norm)
                values["train/rate"] = self.optimizer.param_groups[0]["lr"]
                _write(writer, values, self.at.step)
            if shown is not None:
                shown.update()
            if options.checkpoint_every and self.at.step % options.checkpoint_every == 0:
                self._checkpoint(start)
            late = options.max_minutes is not None and (
                time.perf_counter() - start > 60 * options.max_minutes
            )
            if options.max_minutes is not None and self.group.agree(late):
                self._checkpoint(start)
                return True
        if shown is not None:
            shown.close()
        return False

    def _batches(self) -> Iterator[Batch]:
        """This process's part of the batches that are left in the epoch, on its device."""
        at, device = self.at, self.group.device
        for batch in self.source.batches(at.epoch, at.step_in_epoch, self.group):
            yield {k: v.to(device, non_blocking=True) for k, v in batch.items()}

    def _step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Forward, backward, clipped step; mean losses of this process and the gradient's norm."""
        options, scaled = self.options, self.scaler.is_enabled()
        for group in self.optimizer.param_groups:
            group["lr"] = options.group_rate(group, self.at.epoch, self.at.step)
        self.optimizer.zero_grad(set_to_none=True)
        with _seeded([options.seed, self.at.step, self.group.rank], self.group.device):
            losses = self._backward(batch, options.parts())
        self.scaler.unscale_(self.optimizer)
        limit = float("inf") if options.clip_norm is None else options.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        # A scaler skips steps whose gradients overflowed and tries a smaller scale.
        if not scaled and not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {self.at.step} is not finite")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses, norm

    def _backward(self, batch: Batch, parts: int) -> dict[str, Tensor]:
        """Adds the gradient of the mean losses, which are returned; a batch in parts needs less memory."""
        split = [value.chunk(parts) for value in batch.values()]
        mean: dict[str, Tensor] = {}
        for values in zip(*split):
            losses = self._call(self.wrapped, dict(zip(batch, values)))
            losses = {name: value.mean() / parts for name, value in losses.items()}
            self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
            for name, value in losses.items():
                mean[name] = mean.get(name, 0.0) + value.detach()
        return mean

    def _call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        kind = getattr(torch, self.options.precision)
        low = self.options.precision != "float32"
        with torch.autocast(self.group.device.type, dtype=kind if low else None, enabled=low):
            return function(argument)

    @torch.no_grad()
    def _judge(self, writer: Any) -> None:
        """The judge's score; keeps the weights when it is the best."""
        self.model.eval()
        score, values = self.judge(self.model, self._call, self.group)
        self.history.append(score)
        if writer is not None:
            _write(writer, {f"held_out/{k}": v for k, v in values.items()}, self.at.step)
        if score < self.at.best:
            self.at = replace(self.at, best=score, epochs_without_gain=0)
            if self.group.first:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.save_best(self.model, self.folder / "best.safetensors")
        else:
            self.at.epochs_without_gain += 1

    def _checkpoint(self, start: float) -> None:
        self.at.seconds = time.perf_counter() - start
        if self.group.first:
            save_checkpoint(
                self.folder, self.model, self.optimizer, self.scaler, self.at, self._recorded()
            )


@contextmanager
def _seeded(seeds: list[int], device: torch.device) -> Iterator[None]:
    """Torch's generators for dropout and the like: a step draws the same in a resumed run."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    cuda = device.type == "cuda"
    devices = [torch.cuda.current_device()] if cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


def _save_state(model: nn.Module, path: Path) -> None:
    safetensors = require("safetensors.torch", "saving weights")
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    safetensors.save_file(state, str(path))


def _writer(folder: Path, step: int) -> Any:
    require("tensorboard", "TensorBoard scalars")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step or None)


def _write(writer: Any, values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, step)
