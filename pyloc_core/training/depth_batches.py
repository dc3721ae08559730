# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of tuples: a reference image with its depth, and posed source images of the same scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyloc_core.models.pixels import MEAN, STD
from pyloc_core.training.depth_changes import has_depth, jittered, known_range, mirrored, widened
from pyloc_core.training.depth_options import DepthOptions
from pyloc_core.training.distributed import Processes
from pyloc_core.training.loss import Batch
from pyloc_core.training.rendered_scenes import DepthScene

_ORDER, _CHANGES = range(2)  # streams of one seed that must not meet
Random = np.random.Generator


class Scenes(Protocol):
    """Scenes by number; `RenderedScenes`, or a list. Their images have one size, multiples of 16."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> DepthScene: ...


class DepthBatches:
    """Every scene once per epoch, in a new order, with a random view as the reference.

    A tuple depends on the seed, the epoch and the scene's number alone.

    Raises:
        ValueError: fewer scenes than a batch.
    """

    def __init__(self, scenes: Scenes, options: DepthOptions) -> None:
        if options.batch > len(scenes):
            raise ValueError(f"batch {options.batch} exceeds the {len(scenes)} scenes of an epoch")
        self.scenes, self.options = scenes, options

    def steps(self, group: Processes) -> int:
        parts = group.count * self.options.accumulation
        if self.options.batch % parts:
            raise ValueError(
                f"batch {self.options.batch} does not divide over {group.count} processes in "
                f"{self.options.accumulation} parts"
            )
        return len(self.scenes) // self.options.batch

    def batches(self, epoch: int, first: int, group: Processes) -> Iterator[Batch]:
        batch = self.options.batch
        order = np.random.default_rng([self.options.seed, _ORDER, epoch]).permutation(
            len(self.scenes)
        )
        chosen = [
            [(epoch, int(i)) for i in order[n * batch : (n + 1) * batch][group.rank :: group.count]]
            for n in range(first, self.steps(group))
        ]
        plan: Any = chosen
        yield from DataLoader(
            _Tuples(self), batch_sampler=plan, num_workers=self.options.workers,
            pin_memory=group.device.type == "cuda",
            generator=torch.Generator(),  # the global one is left alone
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        name = repr(self.scenes) if hasattr(self.scenes, "seed") else type(self.scenes).__name__
        return {"scenes": f"{len(self.scenes)}: {name}"}


class _Tuples(Dataset[Batch]):
    def __init__(self, batches: DepthBatches) -> None:
        self.of = batches

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        options = self.of.options
        rng = np.random.default_rng([options.seed, _CHANGES, epoch, index])
        return changed_tuple(rng, self.of.scenes[index], options)


def changed_tuple(rng: Random, scene: DepthScene, options: DepthOptions) -> Batch:
    """A tuple of a scene with a random reference, random sources and random changes.

    Views of which no depth is known (a sensor sees nothing of glass, or too close) are sources alone.
    """
    order = rng.permutation(len(scene.images))
    blind = [not has_depth(scene.depth[view]) for view in order]
    if not all(blind):
        order[: blind.index(False) + 1] = np.roll(order[: blind.index(False) + 1], 1)
    if rng.random() < options.flip:
        scene = mirrored(scene)
    views = order[: options.sources + 1]
    near, far = known_range(scene.depth[views[0]])
    near, far = widened(rng, near, far, options.near_noise, options.far_noise)
    colours = jittered(rng, scene.images[views], options.jitter)
    item = _item(scene, views.tolist(), colours, near, far)
    item["mirror"] = torch.tensor(bool(rng.random() < options.network_flip))
    return item


def plain_tuple(scene: DepthScene, sources: int, reference: int = 0) -> Batch:
    """A tuple as it is, with its known range: the reference and the next views."""
    views = [
        (reference + i) % len(scene.images) for i in range(min(sources + 1, len(scene.images)))
    ]
    colours = scene.images[views].astype(np.float32) / np.float32(255)
    return _item(scene, views, colours, *known_range(scene.depth[reference]))


def _item(
    scene: DepthScene, views: Sequence[int], colours: np.ndarray, near: float, far: float
) -> Batch:
    """Tensors of a tuple: images normalised as ImageNet's, the rest in image pixels and scene units."""
    if len(views) < 2:
        raise ValueError("a scene must have at least two views")
    reference = views[0]
    normal = (colours - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    images = torch.from_numpy(normal.transpose(0, 3, 1, 2).copy()).float()
    poses = np.concatenate(
        [scene.cam_from_world[views], np.tile([[[0.0, 0, 0, 1]]], (len(views), 1, 1))], 1
    )
    relative = (poses[1:] @ np.linalg.inv(poses[0]))[:, :3]
    depth = np.nan_to_num(scene.depth[reference], nan=0.0, posinf=0.0, neginf=0.0)
    K = torch.from_numpy(scene.K[views])
    item: dict[str, Tensor] = {
        "reference": images[0], "sources": images[1:], "K_reference": K[0], "K_sources": K[1:],
        "source_from_reference": torch.from_numpy(relative), "depth": torch.from_numpy(depth),
        "near": torch.tensor(near), "far": torch.tensor(far), "mirror": torch.tensor(False),
    }  # fmt: skip
    if scene.sky is not None:
        item["sky"] = torch.from_numpy(scene.sky[reference])
    return item
