# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: random generators with explicit seeds, the optional data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from shared_data import SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photos, golden outputs and synthetic problems; tests that use it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data folder beside the repository ({SHARED} or PYLOC_SHARED)")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _empty_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs that tests start must not find the source tree, which would hide the built package."""
    os.chdir(tmp_path_factory.mktemp("cwd"))
