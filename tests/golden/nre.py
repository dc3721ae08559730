# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of NRE: networks, dense maps, local maps, refinement, sizes and schedules."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import torch

import pyloc_core as pl
from pyloc_core import models
from pyloc_core.camera import camera_native_args
from pyloc_core.models.inception import MIXED
from pyloc_core.models.nre import published
from pyloc_core.models.nre.network import config_of
from pyloc_core.models.nre.preprocessing import (
    coarse_limit,
    interpolate_descriptors,
    keypoints_to_features,
)
from pyloc_core.reference import camera as cameras
from pyloc_core.reference import refine_pose as gnc

Case = dict[str, Any]
_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}
_REAL = r"([-+.\de]*\d)"
_CALL = re.compile(r"\b(?:normal|uniform|integers)\((?:[^()]|\([^()]*\))*\)")


def draws(text: str, case: Case, golden: ModuleType) -> list[Any]:
    """The arrays of all calls like `uniform(seed,"px",(48,),4,80-5)` in a text, in order."""
    names = {f: getattr(golden, f) for f in ("normal", "uniform", "integers")}
    names |= {"seed": case["seed"], "__builtins__": {}}
    return [eval(call, names) for call in _CALL.findall(text)]


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of a pattern in a text, as numbers."""
    found = re.search(pattern, text)
    assert found, f"no {pattern} in {text}"
    return [float(group) for group in found.groups()]


def network(case: Case, golden: ModuleType) -> dict[str, Any]:
    """Stem, Mixed_5d and descriptors of one image; stage and cut from the names of the weights."""
    state = golden.to_torch(golden.case_state(case))
    found = config_of(state)
    assert found is not None
    net = models.create(f"nre_{found.stage}").load_official(state)
    entry = case["input"]["image"]
    image = golden.random_image(case["seed"], *entry["size_hw"], entry["tag"])
    assert golden.image_crc(image) == entry["crc32"], "the image is not the one of the case"
    blocks = MIXED[: MIXED.index(found.cut) + 1]
    first = len(net.cnn) - 2 - len(blocks)
    at = {2: "stem", first + blocks.index("Mixed_5d"): "mixed5d", len(net.cnn) - 1: "features"}
    outputs, x = {}, net.preprocess(image)
    with torch.inference_mode():
        for i, layer in enumerate(net.cnn):
            x = layer(x)
            if i in at:
                outputs[at[i]] = x.clone().numpy()
        assert torch.equal(net(net.preprocess(image)), x)
    return outputs


def _entries(maps: pl.LossMaps) -> tuple[Any, Any]:
    """(nnz, 3) rows (map, y, x) and the losses there."""
    n = np.repeat(np.arange(len(maps)), maps.entries_per_map)
    at = np.stack([n, maps.xy[:, 1], maps.xy[:, 0]], 1).astype(np.int64)
    return at, np.float32(maps.log_cardinality) - maps.gain


def dense_maps(case: Case, golden: ModuleType) -> dict[str, Any]:
    """Descriptors of keypoints, their maps, and the cost of a pose."""
    inputs = case["input"]
    source, target = (
        draws(inputs[k], case, golden)[0][0] for k in ("source_features", "target_features")
    )
    image_size, map_size = tuple(inputs["image_hw"]), target.shape[1:]
    keypoints = np.stack(draws(inputs["keypoints"], case, golden), 1)
    factor, offset = (np.array(eval(t)) for t in re.findall(r"\[[^\]]*\]", inputs["points"])[:2])
    points = draws(inputs["points"], case, golden)[0] * factor + offset
    behind = re.search(r"the last (\w+) points get z = (-[\d.]+)", inputs["points"])
    assert behind
    points[-_COUNTS[behind[1]] :, 2] = float(behind[2])
    cells = keypoints_to_features(keypoints, image_size, map_size)
    descriptors = interpolate_descriptors(torch.from_numpy(source), cells).numpy()
    stage = published.dense_stage(descriptors, target)
    at, losses = _entries(stage.maps)
    camera = inputs["camera"]
    K = np.array(camera["K_image"])
    # The program counts pixels from 0, this package from 0.5.
    given = (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, *camera["distortion_k1_k2_p1_p2"])
    whole = pl.Camera("OPENCV", image_size[1], image_size[0], given)
    _, in_cells = published.in_map(whole, image_size, map_size)
    _, fx, fy, cx, cy, *_ = in_cells
    pose = np.hstack([camera["R"], np.array(camera["t"])[:, None]])[None]
    xy, ahead = published.project(in_cells, points.astype(np.float64), pose)
    return {
        "keypoints_feature": cells,
        "descriptors": descriptors,
        "correlation": np.asarray(pl.correlation_maps(descriptors, target)),
        "cmaps": stage.probability,
        "nre_maps": np.asarray(stage.maps.dense()),
        "entropy": stage.entropy,
        "argmax": np.asarray(stage.maps.argmin().xy).astype(np.int64),
        "cardinal": np.array([map_size[0] * map_size[1] + 1]),
        "sparse_indices": at,
        "sparse_values": losses,
        "num_non_zero": stage.maps.entries_per_map,
        "dense_cost": published.dense_costs(stage.maps, points, in_cells, pose),
        "dense_cost_points": xy[0][ahead[0]],
        "K_feature": np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
    }


def local_maps(case: Case, golden: ModuleType) -> dict[str, Any]:
    """Windows of a fine map: where the program puts them, and where they belong."""
    inputs = case["input"]
    features = draws(inputs["target_features"], case, golden)[0][0]
    window = int(inputs["window_size"])
    args = (
        draws(inputs["descriptors"], case, golden)[0],
        features,
        np.stack(draws(inputs["prior"], case, golden), 1),
    )
    mass = draws(inputs["norm_coarse"], case, golden)[0]
    options: dict[str, Any] = {"window": window, "coarse_mass": mass, "max_entries": "all"}
    outputs: dict[str, Any] = {}
    for name, compat in (("published", "published"), ("fixed", "published_placed")):
        maps = pl.local_loss_maps(*args, compat=compat, **options)
        at, losses = _entries(maps)
        outputs[f"{name}_indices"], outputs[f"{name}_values"] = at, losses
        outputs[f"{name}_nnz"] = maps.entries_per_map
    outputs["windows"] = _windows(args, window, mass)
    return outputs


def _windows(args: Any, window: int, mass: Any) -> Any:
    """All cells (N, w, w), those outside the map too: features with zeros around them, 0 = truncated."""
    descriptors, features, prior = args
    pad = window + 1
    wide = np.pad(features, ((0, 0), (pad, pad), (pad, pad)))
    maps = pl.local_loss_maps(
        descriptors, wide, np.trunc(prior) + pad, window=window, coarse_mass=mass,
        max_entries="all", compat="published_placed",
    )  # fmt: skip
    # The cardinality is that of the map without its margin.
    limit = np.log(features.shape[1] * features.shape[2] + 1)
    loss = np.asarray(maps.dense())
    return np.where(loss < np.float32(limit), loss, 0)


def refinement(case: Case, golden: ModuleType) -> dict[str, Any]:
    """One evaluation and whole runs, in float64 by the reference and by the native code."""
    inputs = case["input"]
    maps, at, losses = _gnc_maps(inputs)
    K, distortion = np.array(inputs["K"]), inputs["distortion_k1_k2_p1_p2"]
    h, w = inputs["map_hw"]
    parameters = (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, *distortion)
    camera = pl.Camera("OPENCV", w, h, parameters)
    in_cells = camera_native_args(camera, maps.size)
    start = torch.tensor(np.hstack([inputs["R_start"], np.array(inputs["t_start"])[:, None]]))
    points = torch.tensor(inputs["points_world"], dtype=torch.float64)
    outputs = {"num_entries": np.array([len(at)]), "entries": at, "entry_values": losses}
    outputs |= _one_evaluation(maps, at, points, in_cells, start, inputs["one_evaluation"])
    sigma = numbers(rf"sigma {_REAL} to {_REAL}, eta {_REAL}", inputs["run"])
    trajectory: list[tuple[torch.Tensor, float]] = []
    options = gnc.Options(*sigma[:2], published.NO_BOUND, sigma[2], published=True)
    pose, _, energy, _ = gnc.optimise(maps, points, in_cells, start, options, trajectory)
    assert sigma[2] == 0.1, "published.refined has the program's eta"
    found = published.refined(maps, points.numpy(), camera, start.numpy(), (sigma[0], sigma[1]))
    first = trajectory[: case["outputs"]["trajectory_sigma"]["digest"]["shape"][0]]
    return outputs | {
        "trajectory_t": torch.stack([each[:, 3] for each, _ in first]).numpy(),
        "trajectory_R": torch.stack([each[:, :3] for each, _ in first]).numpy(),
        "trajectory_sigma": np.array([sigma for _, sigma in first]),
        "R_final_float64": pose[:, :3].numpy(),
        "t_final_float64": pose[:, 3].numpy(),
        "final_cost_float64": np.array([energy]),
        "R_final": found.cam_from_world[:, :3],
        "t_final": found.cam_from_world[:, 3],
        "final_cost": np.array([found.energy]),
    }


def _gnc_maps(inputs: dict[str, Any]) -> tuple[pl.LossMaps, Any, Any]:
    """Paraboloids near rounded centres, below ln|O|."""
    reach, low, slope = numbers(rf"within (\d+) of .* value {_REAL} ?\+ ?{_REAL}\*", inputs["maps"])
    h, w = inputs["map_hw"]
    cardinality = float(np.log(inputs["cardinal"]))
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    dense = np.full((len(inputs["centers"]), h, w), cardinality)
    for loss, (cx, cy) in zip(dense, inputs["centers"]):
        near = (np.abs(x - np.rint(cx)) <= reach) & (np.abs(y - np.rint(cy)) <= reach)
        value = low + slope * ((x - cx) ** 2 + (y - cy) ** 2)
        loss[near] = np.minimum(value, cardinality)[near]
    maps = pl.LossMaps.from_dense(dense, log_cardinality=cardinality)
    at, losses = _entries(maps)
    return maps, at, losses


def _one_evaluation(
    maps: Any, at: Any, points: Any, in_cells: Any, start: Any, text: str
) -> dict[str, Any]:
    sigma, damping = numbers(rf"sigma {_REAL} and lambda {_REAL}", text)
    xy, valid, J = gnc.published_geometry(in_cells, start, points)
    sums = gnc.map_sums(maps, xy, valid, sigma)
    rows = torch.as_tensor(at[:, 0])
    r2 = ((torch.tensor(maps.xy).double() - xy[rows]) ** 2).sum(1)
    kernel = torch.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    lhs = torch.einsum("n,nij,nik->jk", sums.weight, J, J) + damping * torch.eye(6).double()
    rhs = torch.einsum("nij,ni->j", J, sums.pull)
    delta = torch.linalg.solve(lhs, rhs)
    after = cameras.left_update(start, delta)
    return {
        "projections": xy.numpy(),
        "cost": sums.energy.numpy(),
        "total_cost": sums.energy.sum()[None].numpy(),
        "kernel_weights": (torch.tensor(maps.gain) * kernel / sigma**2).numpy(),
        "jacobian": J.numpy(),
        "normal_lhs": lhs.numpy(),
        "normal_rhs": rhs.numpy(),
        "delta": delta.numpy(),
        "R_updated": after[:, :3].numpy(),
        "t_updated": after[:, 3].numpy(),
    }


def sizes_and_sigmas(case: Case, golden: ModuleType) -> dict[str, Any]:
    """Sigma lists and image limits, their arguments read from the names of the outputs."""
    outputs: dict[str, Any] = {}
    for name in case["outputs"]:
        kind, low, high, *rest = name.replace("max_image", "limit").split("_")
        if kind == "sigmas":
            outputs[name] = np.array(gnc.schedule(float(high), float(low), published=True))
        else:
            cut = high.replace("mixed", "Mixed_")
            outputs[name] = np.array([coarse_limit(int(low), cut, rest == ["nomaxpool"])])
    return outputs


CASES = {
    "nre_net_*": network,
    "nre_maps_*": dense_maps,
    "nre_local_*": local_maps,
    "nre_gnc_*": refinement,
    "nre_sizes_and_sigmas_*": sizes_and_sigmas,
}
