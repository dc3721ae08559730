# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints rewritten as safetensors."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyloc_core._extras import require
from pyloc_core.models import model_class
from pyloc_core.models.checkpoint import read_checkpoint

_MOST_NODES = 10_000  # of an entry of the metadata; optimiser states are far larger


@dataclass(frozen=True)
class Conversion:
    """What was written: counts, and the names of the container's other entries."""

    tensors: int
    values: int
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    leftovers: tuple[str, ...]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    inert: Collection[str] = (),
) -> Conversion:
    """Write the weights of a checkpoint to a safetensors file.

    Args:
        source: any file that `read_checkpoint` takes.
        out: name of the new file, ending in .safetensors; replaced when it exists.
        model: a name of `models.available()`: names are fitted to it and checked; None writes them as
            they are.
        inert: see `read_checkpoint`.

    The metadata holds the container's other entries (`hyper_parameters`, ...) as JSON where they are
    plain and small; `load_official` of the new file finds them there.

    Raises ValueError for what cannot be read, fits not, or cannot be written.
    """
    safetensors = require("safetensors.torch", "writing safetensors")
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ValueError(f"the name of the new file must end in .safetensors, got {path}")
    checkpoint = read_checkpoint(source, inert=inert)
    state = checkpoint.state
    if model is not None:
        state = model_class(model)().fitted(checkpoint)
    metadata: dict[str, str] = {"format": "pt"}
    if model is not None:
        metadata["pyloc_model"] = model
    dropped = []
    for name, value in checkpoint.extra.items():
        try:
            metadata.setdefault(name, json.dumps(_plain(value, [_MOST_NODES], ())))
        except (TypeError, ValueError):
            dropped.append(name)
    # Tensors may share memory in the source, which safetensors refuses.
    tensors = {name: value.detach().contiguous().clone() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        safetensors.save_file(tensors, part, metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    kept = tuple(name for name in checkpoint.extra if name not in dropped)
    values = sum(math.prod(value.shape) for value in tensors.values())
    return Conversion(len(tensors), values, kept, tuple(dropped), checkpoint.leftovers)


def _plain(value: Any, budget: list[int], above: tuple[int, ...]) -> Any:
    """As JSON can hold it. TypeError for tensors and other data, ValueError for cycles and bulk."""
    budget[0] -= 1
    if budget[0] < 0 or id(value) in above:
        raise ValueError("too large, or a cycle")
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v, budget, inside) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, budget, inside) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a {type(value).__name__} is no plain value")
