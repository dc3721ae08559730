# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of S2DNet."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from pyloc_core import models


def network(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """The three maps of one image."""
    model = models.create("s2dnet").load_official(golden.to_torch(golden.case_state(case)))
    entry = case["input"]["image"]
    image = golden.random_image(case["seed"], *entry["size_hw"], entry["tag"])
    if golden.image_crc(image) != entry["crc32"]:
        raise ValueError("the image is not the one of the case")
    with torch.inference_mode():
        levels = model(model.preprocess(image))
    return {f"map{i}": level.numpy() for i, level in enumerate(levels)}


CASES = {"s2dnet_*": network}
