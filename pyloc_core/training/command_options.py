# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options dataclasses on the command line: a flag per field, a JSON file, errors in one line."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from pyloc_core._extras import MissingExtra
from pyloc_core.training.options import OptionsT


def add_run_options(made: argparse.ArgumentParser) -> None:
    """What every training command takes: where it writes, and how it runs."""
    made.add_argument("--out", type=Path, required=True, help="folder of checkpoints and scalars")
    made.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    made.add_argument("--threads", type=int, help="CPU threads")
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    made.add_argument("--no-tensorboard", action="store_true")


def set_threads(given: argparse.Namespace) -> None:
    """`--threads` for torch, the operators, and OpenCV where it is installed."""
    if given.threads is None:
        return
    if given.threads < 1:
        raise ValueError(f"threads must be positive, got {given.threads}")
    import torch

    from pyloc_core import set_num_threads

    torch.set_num_threads(given.threads)
    set_num_threads(given.threads)
    if importlib.util.find_spec("cv2") is not None:
        importlib.import_module("cv2").setNumThreads(given.threads)


def add_option(
    group: Any,
    option: Field[Any],
    texts: Mapping[str, str],
    flag: str | None = None,
    choices: tuple[str, ...] | None = None,
) -> None:
    """One option of a dataclass; not given, it keeps the file's value or the default."""
    default = None if option.default is MISSING else option.default
    kind = {"int": int, "str": str}.get(str(option.type), float)
    shown = f"{default:.4g}" if isinstance(default, float) else str(default)
    group.add_argument(
        flag or "--" + option.name.replace("_", "-"), dest=option.name, type=kind,
        help=f"{texts[option.name]} (default {shown})",
        choices=choices, default=None,
    )  # fmt: skip


def options_of(given: argparse.Namespace, kind: type[OptionsT]) -> OptionsT:
    """Options of the file `--options`, if there is one, changed by those of the command line."""
    values: dict[str, Any] = {}
    if given.options is not None:
        try:
            values = json.loads(given.options.read_text())
        except ValueError as error:
            raise ValueError(f"cannot read {given.options}: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{given.options} must hold one JSON object")
    for option in fields(kind):
        value = getattr(given, option.name)
        if value is not None:
            values[option.name] = value
    return kind.from_dict(values)


def one_line(run: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> int:
    """The exit code; 2 and one line on stderr when the input does not fit."""
    try:
        return run(given)
    except (ValueError, TypeError, OSError, MissingExtra) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
