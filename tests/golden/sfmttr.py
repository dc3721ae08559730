# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of SfM-TTR: scale alignment, the loss of the refinement, and the metrics of its evaluation."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import torch
from golden_draws import drawn

from pyloc_core.depth import align_scale, sfm_depth_loss
from pyloc_core.depth.metrics import kitti_errors
from pyloc_core.depth.sfm_supervision import nearest_cells


def draws(text: str, golden: ModuleType, seed: int) -> list[Any]:
    """The arrays of all calls that a description holds, in order; M and ln are filled in before."""
    calls = re.findall(r"(?:normal|uniform)\(seed,(?:[^()]|\([^()]*\))*\)", text)
    return [drawn(call, golden, seed) for call in calls]


def correspondences(case: dict[str, Any], golden: ModuleType) -> tuple[Any, Any, Any]:
    """SfM depths, network depths and reprojection errors."""
    given, seed = case["input"], case["seed"]
    low, high = (float(v) for v in re.findall(r"ln (\d+)", given["target"]))
    text = re.sub(r"ln (\d+)", lambda m: repr(float(np.log(float(m[1])))), given["target"])
    (exponent,) = draws(text, golden, seed)
    assert np.log(low) <= exponent.min() and exponent.max() <= np.log(high)
    target = np.round(np.exp(exponent.astype(np.float64)), 6)
    noise, bad, factor = (a.astype(np.float64) for a in draws(given["prediction"], golden, seed))
    scale = float(re.match(r"([\d.]+)\*target", given["prediction"])[1])
    share = float(re.search(r"< ([\d.]+) multiplied", given["prediction"])[1])
    prediction = scale * target * (1 + noise)
    prediction = np.round(np.where(bad < share, prediction * np.exp(factor), prediction), 6)
    (errors,) = draws(given["errors"], golden, seed)
    return target, prediction, np.round(errors.astype(np.float64), 6)


def refinement_loss(
    case: dict[str, Any], golden: ModuleType, found: Any, depths: tuple[Any, Any]
) -> tuple[Any, dict[str, Any]]:
    """The depth map, what is read of it, and the loss of the final inliers."""
    text = case["input"]["loss"]
    count = int(found.inliers.sum())
    log_depth, x, y = draws(text.replace("(M,)", f"({count},)"), golden, case["seed"])
    offset = float(re.search(r"\)\+([\d.]+)\)", text)[1])
    depth = np.exp(log_depth + np.float32(offset))
    cells = nearest_cells(
        (np.stack([x, y], 1) + 1.0) / 2, (1, 1), depth.shape[2:], align_corners=True
    )
    read = depth.reshape(-1)[cells]
    t, e = (torch.from_numpy(a[found.inliers]).float() for a in depths)
    loss = sfm_depth_loss(torch.from_numpy(read), t, found.scale, e)
    return depth, {"sampled": read, "loss": [float(loss)]}


def metrics(case: dict[str, Any], golden: ModuleType, depth: Any) -> dict[str, Any]:
    """The published evaluation of the depth map, with and without median scaling."""
    text = case["input"]["metrics"]
    log_truth, mask = draws(text, golden, case["seed"])
    offset = float(re.search(r"\)\+([\d.]+)\)", text)[1])
    unknown = float(re.search(r"\) < ([\d.]+)", text)[1])
    truth = np.where(mask < unknown, 0, np.exp(log_truth + np.float32(offset)))[0, 0]
    outputs = {}
    for ending, way in (("median", "median"), ("raw", None)):
        found = kitti_errors(depth, truth, alignment=way, crop="garg")
        for name in ("a1", "a2", "a3", "rmse", "rmse_log", "abs_rel", "sq_rel"):
            outputs[f"metric_{name}_{ending}"] = [getattr(found, name)]
    return outputs


def alignment(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    target, prediction, errors = correspondences(case, golden)
    found = align_scale(target, prediction, threshold=case["input"]["inlier_threshold"])
    depth, outputs = refinement_loss(case, golden, found, (target, errors))
    return (
        outputs
        | metrics(case, golden, depth)
        | {
            "target": target,
            "prediction": prediction,
            "errors": errors,
            "counts": found.counts,
            "best_sample": [found.best_sample],
            "consensus": found.consensus.astype(np.int64),
            "scale": [found.scale],
            "inliers": found.inliers.astype(np.int64),
        }
    )


CASES = {"sfmttr_*": alignment}
