# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of MVSAnywhere: its volumes, and the whole network with one pass and with two."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import torch
from golden_draws import drawn

import pyloc_core as pl
from pyloc_core import models
from pyloc_core.models.mvsanywhere.cameras import Cameras, checked_cameras
from pyloc_core.models.mvsanywhere.prediction import DepthPrediction
from pyloc_core.models.mvsanywhere.variants import MetadataMLP

_STRIDE = 4


def cameras(given: dict[str, Any], size: tuple[int, int]) -> Cameras:
    """From matrices at matching resolution, a quarter of the image's, and poses world from camera."""
    K = [
        np.array(given.get(f"{side}_K_matching", np.eye(4)))[..., :3, :3] for side in ("ref", "src")
    ]
    to_image = np.diag([_STRIDE, _STRIDE, 1])
    reference, sources = (np.array(given[f"{side}_world_T_cam"]) for side in ("ref", "src"))
    matrices = (to_image @ K[0], to_image @ K[1], np.linalg.inv(sources) @ reference)
    return checked_cameras(matrices, (size, size), (1, len(sources)), device=torch.device("cpu"))


def homogeneous(poses: torch.Tensor) -> torch.Tensor:
    last = torch.tensor([0.0, 0, 0, 1]).to(poses).expand(*poses.shape[:-2], 1, 4)
    return torch.cat([poses, last], -2)


def volumes(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """Both volumes of features of noise."""
    inputs = case["input"]
    reference, sources = (
        torch.from_numpy(drawn(inputs[f"{side}_features"], golden, case["seed"]))
        for side in ("ref", "src")
    )
    size = tuple(_STRIDE * side for side in reference.shape[2:])
    views = cameras(inputs, size)
    limits = torch.tensor([[inputs["min_depth"], inputs["max_depth"]]])
    planes = pl.log_depth_planes(*limits[0], inputs["depth_planes"])
    mlp = MetadataMLP(reference.shape[1])
    state = golden.to_torch(golden.case_state(case))
    mlp.load_state_dict({k.removeprefix("cost_volume.mlp."): v for k, v in state.items()})
    arguments = (reference, sources, *views.of_maps, views.source_from_reference, planes)
    outputs: dict[str, Any] = {"depth_planes": planes}
    outputs["src_T_ref"] = homogeneous(views.source_from_reference)
    with torch.inference_mode():
        outputs["dot"] = pl.plane_sweep(*arguments)
        outputs["hero"] = pl.metadata_cost_volume(*arguments, mlp.weights, depth_limits=limits)
    for name in ("dot", "hero"):
        outputs[f"{name}_lowest_cost"] = planes[outputs[name].argmax(1)]
    outputs["hero_mask"] = views.overall_mask(limits[:, 1]).long()
    return {name: value.numpy() for name, value in outputs.items()}


def full(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """The network from images to depth, and what it computes on the way."""
    inputs = case["input"]
    variant = re.search(r"_(dot|hero)_(single|cascade)_", case["case"])
    assert variant
    model = models.create(f"mvsanywhere_{variant[1]}")
    model.load_official(golden.to_torch(golden.case_state(case)))
    entries = [inputs["reference"], *inputs["sources"]]
    size = tuple(entries[0]["size_hw"])
    reference, *sources = (model.preprocess(image(case, golden, entry)) for entry in entries)
    views = cameras(inputs, size)
    with torch.inference_mode():
        features = model.matching_features(reference)
        every = torch.cat([model.matching_features(each) for each in sources])[None]
        mono = model.mono_features(reference)
        found = model.predict_from_features(
            features, every, mono, views,
            refinements=int(variant[2] == "cascade"), scales=4, return_volume=True,
        )  # fmt: skip
        combiner = model.cost_volume_net
        embedded = combiner.patch_embed(found.volume, [patches for patches, _ in mono[:2]])
        cv = combiner.transformed(embedded, mono[2:])
    outputs = {
        "matching_ref": features, "mono0": tokens(mono[0][0]), "mono4": tokens(mono[2][0]),
        "mono11": tokens(mono[5][0]), "mono11_cls": mono[5][1], "patchified": tokens(embedded),
        "cv2": tokens(cv[0]), "cv11": tokens(cv[3]), **of_prediction(found),
    }  # fmt: skip
    return {name: value.numpy() for name, value in outputs.items()}


def tokens(patches: torch.Tensor) -> torch.Tensor:
    return patches.flatten(2).transpose(1, 2)


def of_prediction(found: DepthPrediction) -> dict[str, Any]:
    ends = {"range_first_min": found.first_near, "range_first_max": found.first_far,
            "range_min": found.near, "range_max": found.far}  # fmt: skip
    scales = {f"log_depth_s{i}": each for i, each in enumerate(found.log_depths)}
    return {
        "volume": found.volume, **ends, **scales, "sky_s0": found.sky_probability[:, None],
        "depth_s0": found.depth[:, None], "lowest_cost": found.lowest_cost,
        "mask": found.mask.long(),
    }  # fmt: skip


def image(case: dict[str, Any], golden: ModuleType, entry: dict[str, Any]) -> Any:
    pixels = golden.random_image(case["seed"], *entry["size_hw"], entry["tag"])
    if golden.image_crc(pixels) != entry["crc32"]:
        raise ValueError("the image is not the one of the case")
    return pixels


CASES = {"mvsa_full_*": full, "mvsa_volume_*": volumes}
