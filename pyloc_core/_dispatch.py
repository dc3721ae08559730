# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an operator runs. One per device by default; a name forces one."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent
_OPS = _PACKAGE / "ops"


@dataclass(frozen=True)
class Implementation:
    """One way to run an operator: its name, whether it can run here, whether it is the default."""

    name: str
    available: bool
    default: bool
    note: str


@cache
def operators() -> tuple[str, ...]:
    """Names of all operators."""
    return tuple(sorted(path.stem for path in _OPS.glob("*.py") if path.stem != "__init__"))


def implementations(op: str) -> list[Implementation]:
    """What can run `op`, the CPU's default first. Raises ValueError for an unknown operator.

    NumPy arrays and CPU tensors run "native"; CUDA tensors run "cuda" where the compiled module has
    the operator, else "triton".
    """
    if op not in operators():
        close = difflib.get_close_matches(op, operators(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown operator {op!r}{hint} known: {', '.join(operators())}")
    found = [Implementation("native", True, True, "C++, CPU")]
    if (_PACKAGE / "_cuda" / f"{op}.py").is_file():
        found.append(_cuda_implementation(op))
    if (_PACKAGE / "_triton" / f"{op}.py").is_file():
        found.append(_triton_implementation(not any(each.default for each in found[1:])))
    has_torch = importlib.util.find_spec("torch") is not None
    note = "float64, torch" if has_torch else "needs torch: pip install 'pyloc_core[torch]'"
    return [*found, Implementation("reference", has_torch, False, note)]


def _cuda_implementation(op: str) -> Implementation:
    compiled = cuda_module()
    if compiled is None:
        return Implementation("cuda", False, False, f"not in this build ({cuda_missing()})")
    if not hasattr(compiled, op):
        return Implementation("cuda", False, False, "not in the compiled module")
    usable = _has_gpu()
    return Implementation("cuda", usable, usable, "CUDA C++" if usable else "no CUDA device")


def _triton_implementation(first_on_gpu: bool) -> Implementation:
    if any(importlib.util.find_spec(name) is None for name in ("torch", "triton")):
        return Implementation("triton", False, False, "needs torch and triton")
    if _has_gpu():
        return Implementation("triton", True, first_on_gpu, "Triton, GPU")
    if triton_interpreted():
        return Implementation("triton", True, False, "Triton's interpreter, CPU: for tests, slow")
    return Implementation("triton", False, False, "no CUDA device")


def _has_gpu() -> bool:
    """Whether torch, once the caller has imported it, sees a CUDA device."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def triton_interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on the CPU (environment TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def _cuda_import() -> tuple[Any, str]:
    try:
        return importlib.import_module("pyloc_core._native_cuda"), ""
    except ImportError as error:  # not built, or the driver's library is missing
        return None, str(error)


def cuda_module() -> Any:
    """pyloc_core._native_cuda, or None where this build has none."""
    return _cuda_import()[0]


def cuda_missing() -> str:
    """Why there is no compiled module; empty when there is one."""
    return _cuda_import()[1]


def traced() -> bool:
    """Whether torch.compile traces the caller: values cannot be looked at then."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def on_tensors(op: str, implementation: str | None, arrays: Mapping[str, Any]) -> bool:
    """Whether the call goes through torch.ops.pyloc_core.<op> instead of the NumPy path.

    So it does while torch.compile traces, for tensors on a device, for tensor subclasses (fake
    tensors have no memory to read), and where a GPU implementation is forced. NumPy arrays and CPU
    tensors take the shorter way.
    """
    if traced():
        return True
    torch = sys.modules.get("torch")
    if torch is None:
        if implementation and select(op, implementation, arrays) in ("triton", "cuda"):
            raise TypeError(f"{op}: implementation {implementation!r} takes torch tensors")
        return False
    tensors = [x for _, x in _flat(arrays) if isinstance(x, torch.Tensor)]
    if not tensors and implementation is None:  # NumPy: the common call stays short
        return False
    if any(_is_subclass(torch, x) for x in tensors):
        return True
    return select(op, implementation, arrays) in ("triton", "cuda")


def _is_subclass(torch: Any, x: Any) -> bool:
    return type(x) not in (torch.Tensor, torch.nn.Parameter)


def select(op: str, implementation: str | None, arrays: Mapping[str, Any]) -> str:
    """ "native", "triton", "cuda" or "reference" for these arguments (name -> array, or list of arrays).

    Raises ValueError, with names and devices, when arguments lie on different devices or when nothing
    runs on theirs, and RuntimeError when a forced implementation cannot run here.
    """
    device = _common_device(op, arrays)
    if implementation is None or implementation == "":
        if device == "cpu":
            return "native"
        chosen = _gpu_default(op) if device.startswith("cuda") else None
        if chosen is None:
            name = next(iter(arrays))
            raise ValueError(
                f"{name} is on {device}: {op} has no implementation for that device in this build"
                f"{_missing(op)}; move it with .cpu()"
            )
        return chosen
    _check_forced(op, implementation)
    if implementation in ("native", "reference") and device != "cpu":
        raise ValueError(f"{op}: {implementation!r} runs on the CPU, the arguments are on {device}")
    if device == "cpu" and (
        implementation == "cuda" or (implementation == "triton" and not triton_interpreted())
    ):
        raise RuntimeError(
            f"{op}: {implementation!r} takes CUDA tensors, the arguments are on the CPU"
        )
    return implementation


@cache
def _gpu_default(op: str) -> str | None:
    """What runs CUDA tensors. Found once: it is asked for on every call, and files do not come and go."""
    return next((each.name for each in implementations(op)[1:] if each.default), None)


def _missing(op: str) -> str:
    """What would run the operator on a GPU, and why it cannot: for the end of a message."""
    notes = [f"{e.name}: {e.note}" for e in implementations(op) if e.name in ("cuda", "triton")]
    return f" ({'; '.join(notes)})" if notes else ""


def _flat(arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in arrays.items():
        if isinstance(value, (list, tuple)):
            pairs.extend((f"{name}[{i}]", each) for i, each in enumerate(value))
        else:
            pairs.append((name, value))
    return pairs


def _common_device(op: str, arrays: Mapping[str, Any]) -> str:
    torch = sys.modules.get("torch")
    devices = {}
    for name, x in _flat(arrays):
        if x is None:
            continue
        is_tensor = torch is not None and isinstance(x, torch.Tensor)
        devices[name] = str(x.device) if is_tensor else "cpu"
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{op}: all arguments must be on one device, got {found}")
    return next(iter(devices.values()), "cpu")


def _check_forced(op: str, implementation: str) -> None:
    known = {each.name: each for each in implementations(op)}
    if implementation not in known:
        raise ValueError(
            f"{op} has no implementation {implementation!r}; it has {', '.join(sorted(known))}"
        )
    if not known[implementation].available:
        note = known[implementation].note
        raise RuntimeError(f"{op}: implementation {implementation!r} cannot run here: {note}")


def use_reference(op: str, implementation: str | None) -> bool:
    """True when the caller forces the reference; raises for what cannot run."""
    if implementation is None or implementation == "native":
        return False
    _check_forced(op, implementation)
    return implementation == "reference"


def reference_module(op: str) -> Any:
    """pyloc_core.reference.<op>, imported on first use since it imports torch."""
    return importlib.import_module(f"pyloc_core.reference.{op}")


def device_module(op: str, implementation: str) -> Any:
    """pyloc_core._triton.<op> or pyloc_core._cuda.<op>, imported on first use."""
    return importlib.import_module(f"pyloc_core._{implementation}.{op}")
