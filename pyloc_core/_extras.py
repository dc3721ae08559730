# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Optional dependencies, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

# Module -> (name on the package index, extra of pyloc_core that brings it).
_EXTRAS = {
    "cv2": ("opencv-python-headless", "localization"),
    "pycolmap": ("pycolmap", "localization"),
    "PIL": ("pillow", "localization"),
    "safetensors": ("safetensors", "localization"),
    "tqdm": ("tqdm", "localization"),
    "typer": ("typer", "cli"),
    "rich": ("rich", "cli"),
    "matplotlib": ("matplotlib", "viz"),
    "skimage": ("scikit-image", "demo"),
    "poselib": ("poselib", "eval"),
    "torch": ("torch", "torch"),
    "tensorboard": ("tensorboard", "training"),
    "pytorch_metric_learning": ("pytorch-metric-learning", "training"),
    "open3d": ("open3d", "mesh"),
    "faiss": ("faiss-cpu", "retrieval"),
    "scipy": ("scipy", "mining"),
    "networkx": ("networkx", "mining"),
    "ray": ("ray[data]", "ray"),
    "pyarrow": ("pyarrow", "ray"),
}


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message says how to get it."""


def require(module: str, what_for: str) -> Any:
    """Import an optional dependency, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package, extra = _EXTRAS[module.split(".")[0]]
        raise MissingExtra(
            f"{what_for} needs {package}: pip install 'pyloc_core[{extra}]' ({error})"
        ) from error
