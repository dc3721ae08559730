# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden case of MVSAnywhere's depth range from the cameras and of its cascade rule."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
from golden_draws import drawn

import pyloc_core as pl

_PLANTED = re.compile(r"u<([\d.]+) -> ([\d.]+), u>1-([\d.]+) -> ([\d.]+)")


def rule(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """Ranges of the cameras, and the second range of each planted depth map."""
    outputs: dict[str, Any] = {}
    for name, given in case["input"].items():
        kind, _, label = name.partition("_")
        if kind == "cameras":
            near, far = _first(given, tuple(case["input"]["image_hw"]))
            outputs[f"range_{label}_min"], outputs[f"range_{label}_max"] = near, far
        elif kind == "map":
            depth = _planted(given["depth"], golden, case["seed"])
            near, far = pl.refine_depth_range(depth, given["min_depth"], given["max_depth"])
            outputs[f"refined_{label}_min"] = near.reshape(-1)
            outputs[f"refined_{label}_max"] = far.reshape(-1)
    return outputs


def _first(given: dict[str, Any], size: tuple[int, int]) -> tuple[Any, Any]:
    """The focal length is that of the first source; the images are 4 times the matching maps."""
    assert size[1] == given["image_width"]
    K = np.array(given["src_K_matching"])[:1, :3, :3] * [[[4.0], [4.0], [1.0]]]
    world_from_reference = np.array(given["ref_world_T_cam"])
    world_from_source = np.array(given["src_world_T_cam"])
    return pl.depth_range(K, (np.linalg.inv(world_from_source) @ world_from_reference)[None], size)


def _planted(text: str, golden: ModuleType, seed: int) -> Any:
    """ "exp(uniform(...)); then with u=uniform(...): u<a -> near, u>1-b -> far"."""
    first, then = text.split("; then with u=")
    draw, rest = then.split(": ", 1)
    found = _PLANTED.fullmatch(rest)
    assert found, f"another rule: {rest}"
    low, near, high, far = (float(group) for group in found.groups())
    bounds = re.sub(r"ln ([\d.]+)", lambda m: repr(float(np.log(float(m[1])))), first)
    depth = np.exp(drawn(bounds.removeprefix("exp(")[:-1], golden, seed).astype(np.float32))
    u = drawn(draw, golden, seed)
    return np.where(u < low, np.float32(near), np.where(u > 1 - high, np.float32(far), depth))


CASES = {"mvsa_rule_*": rule}
