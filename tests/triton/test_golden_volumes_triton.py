# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of both cost volumes reproduce the recorded volumes of MVSAnywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import golden_parity  # noqa: E402

OPERATORS = ("plane_sweep", "metadata_cost_volume")


def on_triton(operator: Callable[..., Any], device: Any, ran: list[str]) -> Callable[..., Any]:
    def moved(x: Any) -> Any:
        if isinstance(x, (tuple, list)):
            return type(x)(map(moved, x))
        return x.to(device) if torch.is_tensor(x) else x

    def run(*arguments: Any, **options: Any) -> Any:
        options = {name: moved(x) for name, x in options.items()}
        found = operator(*map(moved, arguments), **options, implementation="triton")
        ran.append(operator.__name__)
        return found.cpu()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 3])
def test_recorded_volumes(
    views: int, shared: Path, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    for name in OPERATORS:
        monkeypatch.setattr(pl, name, on_triton(getattr(pl, name), device, ran))
    rows = golden_parity.run(shared / "golden", (f"mvsa_volume_{views}src",))
    assert tuple(ran) == OPERATORS
    missed = [row for row in rows if not row.ok]
    assert rows and not missed, "\n" + golden_parity.table(missed)
