# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training on pairs: what the loop learns from and is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from pyloc_core.training.distributed import Processes
from pyloc_core.training.loop import Call, Outcome, Save, run_training
from pyloc_core.training.loss import Batch
from pyloc_core.training.options import TrainingOptions
from pyloc_core.training.pairs import PairDataset, stack


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
    return run_training(
        model, PairBatches(training, options), HeldOutLoss(held_out), folder, options,
        device=device, resume=resume, save_best=save_best, progress_bar=progress_bar,
        tensorboard=tensorboard,
    )  # fmt: skip


class PairBatches:
    """Batches of a dataset of pairs, in a new order every epoch."""

    def __init__(self, pairs: PairDataset, options: TrainingOptions) -> None:
        if options.batch > len(pairs):
            raise ValueError(f"batch {options.batch} exceeds the {len(pairs)} pairs of an epoch")
        self.pairs, self.options = pairs, options

    def steps(self, group: Processes) -> int:
        if self.options.batch % group.count:
            raise ValueError(
                f"batch {self.options.batch} does not divide over {group.count} processes"
            )
        return len(self.pairs) // self.options.batch

    def batches(self, epoch: int, first: int, group: Processes) -> Iterator[Batch]:
        options = self.options
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.pairs, group.count, group.rank, shuffle=True, seed=options.seed, drop_last=True
        )
        self.pairs.set_epoch(epoch)
        sampler.set_epoch(epoch)
        share, order = options.batch // group.count, list(sampler)
        chosen = [order[i * share : (i + 1) * share] for i in range(first, self.steps(group))]
        yield from DataLoader(
            self.pairs, batch_sampler=chosen, num_workers=options.workers, collate_fn=stack
        )


class HeldOutLoss:
    """The mean loss on held-out pairs, shared among the processes."""

    def __init__(self, pairs: PairDataset) -> None:
        self.pairs = pairs

    def __call__(
        self, model: nn.Module, call: Call, group: Processes
    ) -> tuple[float, dict[str, float]]:
        sums: dict[str, Tensor] = {}
        for index in range(group.rank, len(self.pairs), group.count):
            item = {k: v.to(group.device) for k, v in stack([self.pairs[index]]).items()}
            for name, value in call(model, item).items():
                sums[name] = sums.get(name, torch.zeros_like(value[0])) + value[0]
        summed = group.total(torch.stack(list(sums.values())).double())
        means = dict(zip(sums, (summed / len(self.pairs)).tolist()))
        return sum(means.values()), means
