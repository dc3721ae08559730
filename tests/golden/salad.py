# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of SALAD: the whole network, and the aggregator alone."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import torch
from golden_draws import drawn

from pyloc_core import models
from pyloc_core.models.dinov2 import SIZES
from pyloc_core.models.salad.head import SALADHead


def full(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """Descriptor, assignment, and the tokens on the way there."""
    entry = case["input"]["image"]
    image = golden.random_image(case["seed"], *entry["size_hw"], entry["tag"])
    if golden.image_crc(image) != entry["crc32"]:
        raise ValueError("the image is not the one of the case")
    squash = re.search(r"squashed to (\d+)x(\d+)", case["preprocessing"])
    shapes = dict(case["state"]["keys"])
    channels = shapes["backbone.model.cls_token"][-1]
    backbone = next(name for name, size in SIZES.items() if size.channels == channels)
    model = models.create(
        "salad", backbone=backbone, **head_options(shapes),
        size=[int(side) for side in squash.groups()] if squash else None,
    )  # fmt: skip
    model.load_official(golden.to_torch(golden.case_state(case)))
    with torch.inference_mode():
        pixels = model.preprocess(image)
        embed = model.vit.embed(pixels)
        patches, token = model.vit(pixels)
        outputs = {
            "input": pixels,
            "embed": embed,
            "block0": model.vit.blocks[0](embed),
            "cls": token,
            "patches": patches,
            "log_assignment": model.assignment(pixels),
            "descriptor": model(pixels),
        }
    return {name: value.numpy() for name, value in outputs.items()}


def aggregator(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """The head on patches and a token of noise."""
    shapes = {
        name: shape for name, shape in case["state"]["keys"] if name.startswith("aggregator.")
    }
    case = {**case, "state": {**case["state"], "keys": list(shapes.items())}}
    state = golden.to_torch(golden.case_state(case))
    head = SALADHead(shapes["aggregator.score.0.weight"][1], **head_options(shapes)).eval()
    head.load_state_dict({k.removeprefix("aggregator."): v for k, v in state.items()})
    patches, token = (
        torch.from_numpy(drawn(case["input"][name], golden, case["seed"]))
        for name in ("patches", "cls")
    )
    with torch.inference_mode():
        outputs = {
            "scores": head.scores(patches),
            "features": head.features(patches),
            "token": head.token_features(token),
            "log_assignment": head.log_assignment(patches),
            "descriptor": head(patches, token),
        }
    return {name: value.numpy() for name, value in outputs.items()}


def head_options(shapes: dict[str, Any]) -> dict[str, int]:
    """Options of the head that has these tensors."""
    return {
        "num_clusters": shapes["aggregator.score.3.bias"][0],
        "cluster_dim": shapes["aggregator.cluster_features.3.bias"][0],
        "token_dim": shapes["aggregator.token_features.2.bias"][0],
        "hidden": shapes["aggregator.score.0.bias"][0],
    }


CASES = {"salad_full_*": full, "salad_aggregator_*": aggregator}
