# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of S2DHM: the network with its matching, and the ratio test on synthetic maps."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import torch
from golden_draws import drawn

from pyloc_core import models
from pyloc_core.models.interpolate import sample_cells
from pyloc_core.models.s2dhm.matching import query_pixels, ratio_test


def network(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """Descriptor, hypercolumns, and the matches of some reference cells."""
    model = models.create("s2dhm").load_official(golden.to_torch(golden.case_state(case)))
    inputs = case["input"]
    image, reference = (_image(case, golden, inputs[key]) for key in ("image", "reference_image"))
    with torch.inference_mode():
        pixels = model.preprocess(image)
        netvlad, query = model.netvlad(pixels), model.hypercolumn(pixels)
        of_reference = model.hypercolumn(model.preprocess(reference))
        cells = torch.tensor(inputs["cells"])[:, [1, 0]]  # given as (row, column)
        descriptors = sample_cells(of_reference[0], cells)
        correlation = torch.einsum("nd,dhw->nhw", descriptors, query[0])
    tested = ratio_test(correlation.numpy())
    # The published program multiplies the cell of the reference image onto the position.
    px = query_pixels(tested.xy, reference.shape[:2], query.shape[-2:], compat="published")
    return {
        "input": pixels.numpy(),
        "netvlad": netvlad.numpy(),
        "hypercolumn": query.numpy(),
        "reference_hypercolumn": of_reference.numpy(),
        "correlation": correlation.numpy(),
        "match_xy": tested.xy.astype(np.int64),
        "match_valid": tested.valid.astype(np.int64),
        "match_px": px,
        "ratio": tested.margin,
    }


def ratio(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """The ratio test on maps of noise with one peak each."""
    inputs = case["input"]
    maps, *peaks = (
        drawn(text, golden, case["seed"])
        for text in re.findall(r"(?:normal|uniform|integers)\(.*?\)(?=\[i\]| with |$)", inputs["correlation"])
    )  # fmt: skip
    value, row, column = peaks
    maps[np.arange(len(maps)), row, column] = value
    tested = ratio_test(maps, factor=inputs["factor"], ratio=inputs["ratio"])
    return {
        "correlation": maps,
        "match_xy": tested.xy.astype(np.int64),
        "match_valid": tested.valid.astype(np.int64),
    }


def _image(case: dict[str, Any], golden: ModuleType, entry: dict[str, Any]) -> Any:
    image = golden.random_image(case["seed"], *entry["size_hw"], entry["tag"])
    if golden.image_crc(image) != entry["crc32"]:
        raise ValueError("the image is not the one of the case")
    return image


CASES = {"s2dhm_*": network, "s2dhm_ratio_*": ratio}
