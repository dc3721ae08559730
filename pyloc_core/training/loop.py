# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: one optimiser, a schedule, checkpoints, early stopping, one or many processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from pyloc_core._extras import require
from pyloc_core.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pyloc_core.training.distributed import Processes, processes
from pyloc_core.training.loss import Batch
from pyloc_core.training.options import TrainingOptions
from pyloc_core.training.pairs import PairDataset, stack

Save = Callable[[nn.Module, Path], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: steps done, best held-out loss, why it stopped, held-out loss per epoch (of this
    call), seconds over all calls, and whether this is process 0."""

    steps: int
    best: float
    reason: str
    held_out: tuple[float, ...]
    seconds: float
    first: bool = True


def train(
    model: nn.Module,
    training: PairDataset,
    held_out: PairDataset,
    folder: str | Path,
    options: TrainingOptions,
    *,
    device: str | None = None,
    resume: bool = False,
    save_best: Save | None = None,
    progress_bar: bool = True,
    tensorboard: bool = True,
) -> Outcome:
    """Train a model that turns batches of pairs into losses (`GradNetPairLoss`, `DensePairLoss`).

    Start it under torchrun for several processes: each gets its share of every batch, the gradients
    are averaged, and the result is that of one process with the same `options.batch`.

    Args:
        training: pairs; `options.pairs_per_epoch` is its length.
        held_out: pairs with `fresh=False` and another seed, for early stopping.
        folder: checkpoints and TensorBoard files; process 0 writes.
        resume: go on from the folder's checkpoint, with the same bits as without the interruption.
        save_best: called with the model and a path when the held-out loss is better than before;
            None writes best.safetensors with the model's state.

    Raises:
        ValueError: a batch that the processes cannot share, float16 without CUDA, a checkpoint that does
            not fit or was made with other options.
        FloatingPointError: a loss that is not finite.
    """
    with processes(device) as group:
        run = _Run(model, training, held_out, Path(folder), options, group)
        run.save_best = save_best or _save_state
        if resume:
            run.load()
        return run.train(progress_bar and group.first, tensorboard and group.first)


class _Run:
    """One run on one process."""

    def __init__(
        self,
        model: nn.Module,
        training: PairDataset,
        held_out: PairDataset,
        folder: Path,
        options: TrainingOptions,
        group: Processes,
    ) -> None:
        if options.batch % group.count:
            raise ValueError(f"batch {options.batch} does not divide over {group.count} processes")
        if options.batch > len(training):
            raise ValueError(f"batch {options.batch} exceeds the {len(training)} pairs of an epoch")
        if options.precision == "float16" and group.device.type != "cuda":
            raise ValueError("precision float16 needs CUDA; bfloat16 works on the CPU as well")
        self.options, self.group, self.folder = options, group, folder
        self.model = model.to(group.device)
        self.wrapped: nn.Module = self.model
        if group.count > 1:
            self.wrapped = DistributedDataParallel(self.model)
        self.training, self.held_out = training, held_out
        groups = getattr(self.model, "parameter_groups", self.model.parameters)()
        self.optimizer = torch.optim.Adam(groups, lr=options.learning_rate)
        scaled = options.precision == "float16"
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=scaled)
        self.at = Progress()
        self.save_best: Save = _save_state
        self.history: list[float] = []
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            training, group.count, group.rank, shuffle=True, seed=options.seed, drop_last=True
        )

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
        now = asdict(self.options)
        for name, value in saved.items():
            if name not in may_differ and now.get(name) != value:
                raise ValueError(
                    f"the checkpoint in {self.folder} was made with {name} = {value!r}, "
                    f"not {now.get(name)!r}"
                )

    def train(self, bar: bool, tensorboard: bool) -> Outcome:
        writer = _writer(self.folder, self.at.step) if tensorboard else None
        start = time.perf_counter() - self.at.seconds
        steps = len(self.training) // self.options.batch
        reason = "all epochs done"
        try:
            while self.at.epoch < self.options.epochs:
                out_of_time = self._epoch(steps, start, bar, writer)
                if out_of_time:
                    reason = "max_minutes reached"
                    if self.at.step_in_epoch:
                        self._judge(writer)
                    break
                self._judge(writer)
                self.at = replace(self.at, epoch=self.at.epoch + 1, step_in_epoch=0)
                self._checkpoint(start)
                if self.at.epochs_without_gain >= self.options.patience:
                    reason = f"no better held-out loss in {self.options.patience} epochs"
                    break
        finally:
            if writer is not None:
                writer.close()
        seconds = time.perf_counter() - start
        return Outcome(
            self.at.step, self.at.best, reason, tuple(self.history), seconds, self.group.first
        )

    def _epoch(self, steps: int, start: float, bar: bool, writer: Any) -> bool:
        """The steps that remain of an epoch; True when the time is up."""
        options, shown = self.options, None
        if bar:
            tqdm = require("tqdm", "a progress bar").tqdm
            shown = tqdm(total=steps, initial=self.at.step_in_epoch, desc=f"Epoch {self.at.epoch}")
        self.model.train()
        for batch in self._batches(steps):
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

    def _batches(self, steps: int) -> Iterator[Batch]:
        """This process's part of the batches that are left in the epoch."""
        self.training.set_epoch(self.at.epoch)
        self.sampler.set_epoch(self.at.epoch)
        share = self.options.batch // self.group.count
        order = list(self.sampler)
        batches = [order[i * share : (i + 1) * share] for i in range(self.at.step_in_epoch, steps)]
        loader = DataLoader(
            self.training, batch_sampler=batches, num_workers=self.options.workers,
            collate_fn=stack,
        )  # fmt: skip
        for batch in loader:
            yield {k: v.to(self.group.device, non_blocking=True) for k, v in batch.items()}

    def _step(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Forward, backward, clipped step; mean losses of this process and the gradient's norm."""
        options, scaled = self.options, self.scaler.is_enabled()
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("factor", 1.0) * options.rate(self.at.epoch, self.at.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = {k: v.mean() for k, v in self._forward(self.wrapped, batch).items()}
        total = torch.stack(list(losses.values())).sum()
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip_norm)
        # A scaler skips steps whose gradients overflowed and tries a smaller scale.
        if not scaled and not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {self.at.step} is not finite")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {k: v.detach() for k, v in losses.items()}, norm

    def _forward(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        kind = getattr(torch, self.options.precision)
        low = self.options.precision != "float32"
        with torch.autocast(self.group.device.type, dtype=kind if low else None, enabled=low):
            return dict(model(batch))

    @torch.no_grad()
    def _judge(self, writer: Any) -> None:
        """Loss on the held-out pairs; keeps the weights when it is the best."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        for index in range(self.group.rank, len(self.held_out), self.group.count):
            item = {k: v.to(self.group.device) for k, v in stack([self.held_out[index]]).items()}
            for name, value in self._forward(self.model, item).items():
                sums[name] = sums.get(name, torch.zeros_like(value[0])) + value[0]
        summed = self.group.total(torch.stack(list(sums.values())).double())
        means = dict(zip(sums, (summed / len(self.held_out)).tolist()))
        loss = sum(means.values())
        self.history.append(loss)
        if writer is not None:
            _write(writer, {f"held_out/{k}": v for k, v in means.items()}, self.at.step)
        if loss < self.at.best:
            self.at = replace(self.at, best=loss, epochs_without_gain=0)
            if self.group.first:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.save_best(self.model, self.folder / "best.safetensors")
        else:
            self.at.epochs_without_gain += 1

    def _checkpoint(self, start: float) -> None:
        self.at.seconds = time.perf_counter() - start
        if self.group.first:
            save_checkpoint(
                self.folder, self.model, self.optimizer, self.scaler, self.at, asdict(self.options)
            )


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
