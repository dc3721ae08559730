# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Published networks behind one manner: `create` one by name, load its official weights, use it.

A system is a folder here. Its `__init__.py` names its models in `MODELS`, model -> "module:Class", and
imports nothing heavy: `available` needs no torch. There is no list to extend. Files beside the folders
are what systems share. No published weights are shipped; docs/models.md says where they are
and on which terms. The project's own network, `gradnet`, has its weights beside it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from pyloc_core._extras import require

__all__ = ["available", "create"]


@cache
def _entries() -> dict[str, str]:
    """Model -> "module:Class", from every folder of this package."""
    entries: dict[str, str] = {}
    for folder in pkgutil.iter_modules(__path__):
        if folder.ispkg:
            entries |= importlib.import_module(f"{__name__}.{folder.name}").MODELS
    return entries


def available() -> list[str]:
    """Names that `create` takes, in alphabetical order."""
    return sorted(_entries())


def model_class(name: str) -> Any:
    """The class of a model. ValueError for an unknown name, with the nearest known one."""
    entries = _entries()
    if name not in entries:
        raise ValueError(f"there is no model {name!r}{_hint(name, list(entries))}")
    require("torch", f"the network {name}")
    module, _, cls = entries[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def create(name: str, *, seed: int = 0, **config: Any) -> Any:
    """Build a network with random weights; `.load_official(path_or_state_dict)` then loads real ones.

    Args:
        name: one of `available()`.
        seed: of the random weights; no global generator is touched.
        config: options of the network, those of its class.

    Returns:
        The network (`torch.nn.Module`) in evaluation mode, float32, on the CPU.

    Raises:
        ValueError: an unknown name, or an option with an impossible value.
        TypeError: an unknown option, with the nearest known one.
        MissingExtra: torch is not installed.
    """
    cls = model_class(name)
    known = [p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "seed")]
    check_options(name, config, known)
    torch = importlib.import_module("torch")
    with torch.random.fork_rng(devices=[]):  # the constructors of layers draw from the global one
        return cls(seed=seed, **config).eval()


def check_options(name: str, given: Collection[str], known: Sequence[str]) -> None:
    """TypeError for an option that does not exist, with the nearest that does."""
    for option in given:
        if option not in known:
            raise TypeError(f"{name} has no option {option!r}{_hint(option, known)}")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(sorted(known)) or 'none'}"
