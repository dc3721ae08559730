# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reading published checkpoints without running code from them, and fitting them to a network."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from pyloc_core._extras import require
from pyloc_core.models.legacy_tar import read_tar
from pyloc_core.models.torch_container import check_stored, read_stream, read_zip

State = dict[str, torch.Tensor]
# Where programs put the weights inside the container, in the order in which they are looked for.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_SHOWN = 4  # names per kind of mismatch in an error message
# torch.load(weights_only=True) could be made to run code before this version (CVE-2025-32434).
_SAFE_TORCH = (2, 6)


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and what was stored beside them.

    Attributes:
        state: {name in the file: tensor on the CPU}.
        extra: the container's other entries as plain containers, numbers, texts and tensors; objects
            of unknown classes are dictionaries of their attributes. Empty for a bare state dict.
        leftovers: names of the unknown classes; nothing of them was imported or run.
        source: file name, or "state dict".
    """

    state: State
    extra: dict[str, Any] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()
    source: str = "state dict"

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """What Lightning stores under that name; empty when there is none."""
        found = self.extra.get("hyper_parameters", {})
        return dict(found) if isinstance(found, Mapping) else {}


def read_checkpoint(source: Any, *, inert: Collection[str] = ()) -> Checkpoint:
    """Read safetensors, a file of torch.save of any age, or take a state dict as it is.

    Args:
        source: file name; a Checkpoint, which is returned; or a mapping of names to tensors (or NumPy
            arrays), bare or nested as in the files (`state_dict`, `model`, ...).
        inert: globals (`package.module.Name`) that the file may call: the call is recorded in the
            result and not executed. Calls of anything else that is unknown are refused.

    Returns:
        Checkpoint.

    Raises:
        ValueError: a file that is missing, damaged, truncated or holds no weights, with its name;
            a pickle that names or calls what a checkpoint has no need of, with that name
            (`RefusedPickle`). Nothing from the file is executed in any case.
        TypeError: a source of another kind.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return _checkpoint(source, (), "state dict")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"a checkpoint is a file name or a state dict, got {type(source).__name__}")
    path = Path(source)
    try:
        with path.open("rb") as stream:
            content, left = _read(path, stream, inert)
            return _checkpoint(content, left, str(path))
    except FileNotFoundError:
        raise ValueError(f"no such checkpoint: {path}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise type(error)(f"cannot read {path}: {error}") from None


def _read(path: Path, stream: IO[bytes], inert: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    head = stream.read(512)
    stream.seek(0)
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors(path), ()
    if head[257:262] == b"ustar":
        return read_tar(stream, inert)
    if not head:
        raise ValueError("the file is empty")
    archive = head[:4] == b"PK\x03\x04"
    if archive:
        check_stored(stream)
    content = _read_with_torch(path)
    if content is not None:
        return content, ()
    return (read_zip if archive else read_stream)(stream, inert)


def _read_with_torch(path: Path) -> Any:
    """What torch reads by itself, or None: the readers here then say what is wrong, or know better."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _SAFE_TORCH:
        return None
    try:
        with warnings.catch_warnings():  # about pickle protocols it was not written for
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of damaged files nearly anything comes
        return None


def _read_safetensors(path: Path) -> Any:
    safetensors = require("safetensors", "reading safetensors")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"the file is damaged or truncated: {error}") from None
    extra: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            extra[name] = json.loads(text)
        except ValueError:
            extra[name] = text
    return {**extra, "state_dict": state}


def _checkpoint(content: Any, left: tuple[str, ...], source: str) -> Checkpoint:
    """The weights in a container, wherever they are nested."""
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__} and no weights")
    if _is_state(content):
        return Checkpoint(_tensors(content), {}, left, source)
    for name in _NESTS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and _is_state(inner):
            extra = {str(k): v for k, v in content.items() if k != name}
            return Checkpoint(_tensors(inner), extra, left, source)
    keys = ", ".join(str(key) for key in list(content)[:8]) or "nothing"
    raise ValueError(f"it holds no weights under a known name; its entries: {keys}")


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(k, str) and isinstance(v, (torch.Tensor, np.ndarray)) for k, v in content.items()
    )


def _tensors(content: Mapping[str, Any]) -> State:
    return {
        name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach()
        for name, value in content.items()
    }


def fit_state(
    state: State,
    expected: Mapping[str, tuple[int, ...]],
    model: str,
    *,
    prefixes: Collection[str] = (),
) -> State:
    """The state under the names that a network expects.

    Parts `module` (of DataParallel) are dropped wherever they stand, then one of `prefixes` or none,
    whichever fits more names.

    Raises ValueError that counts and names entries that are missing, unexpected, or of another shape
    or kind than expected.
    """
    fitted = max(
        (_without_prefix(state, prefix) for prefix in ("", "model.", "net.", *prefixes)),
        key=lambda each: sum(name in expected for name in each),
    )
    missing = [name for name in expected if name not in fitted]
    unexpected = [name for name in fitted if name not in expected]
    misshapen = [
        f"{name} is {tuple(fitted[name].shape)} and not {tuple(shape)}"
        for name, shape in expected.items()
        if name in fitted and tuple(fitted[name].shape) != tuple(shape)
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (
            ("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen),
        )
        if names
    ]  # fmt: skip
    if problems:
        alien = len(missing) == len(expected)
        hint = "; no entry fits: weights of another model?" if alien else ""
        raise ValueError(f"these are no weights of {model}: {'; '.join(problems)}{hint}")
    return fitted


def _without_prefix(state: State, prefix: str) -> State:
    out: State = {}
    for name, value in state.items():
        plain = ".".join(part for part in name.split(".") if part != "module")
        plain = plain[len(prefix) :] if plain.startswith(prefix) else plain
        if plain in out:
            raise ValueError(f"the weights hold {plain} twice, with and without a prefix")
        out[plain] = value
    return out
