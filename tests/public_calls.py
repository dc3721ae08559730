# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""One valid call of every public function, with what the nets of test_errors and test_threads must know
about its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from pose_problems import bilinear, camera, reprojection_problem, smooth_features
from sweep_scenes import scene

import pyloc_core as pl

COUNT, CHANNELS, MAP = 24, 12, (30, 40)


@dataclass
class Call:
    """`run(**arrays, **options)` is a valid call."""

    name: str
    run: Callable[..., Any]
    arrays: dict[str, np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    per_point: tuple[str, ...] = ()  # arrays that share the length N
    flexible: tuple[str, ...] = ()  # arrays that take leading dimensions
    not_finite_allowed: tuple[str, ...] = ()  # documented: NaN passes through, or drops the item
    threaded: bool = True
    reference: bool = True
    result_per_point: bool = True  # an array that comes back has length N

    def __call__(self, **changes: Any) -> Any:
        return self.run(**{**self.arrays, **self.options, **changes})


def loss_maps_problem(count: int = COUNT, seed: int = 3) -> tuple[np.ndarray, Any]:
    """Dense loss maps (N, H, W) with a peak at the projection of each point, and the pose problem."""
    problem = reprojection_problem(count, seed, noise=0.0, start=0.002)
    xy = pl.map_from_image(problem.points2d, problem.camera.size, MAP)
    y, x = np.mgrid[: MAP[0], : MAP[1]]
    squared = (x - xy[:, 0, None, None]) ** 2 + (y - xy[:, 1, None, None]) ** 2
    logits = 14 * np.exp(-squared / (2 * 1.2**2))
    p = np.exp(logits) / (1 + np.exp(logits).sum((1, 2), keepdims=True))
    return np.minimum(-np.log(p), np.log(1 + MAP[0] * MAP[1])).astype(np.float32), problem


def from_dense(maps: Any, **options: Any) -> pl.LossMaps:
    return pl.LossMaps.from_dense(maps, **options)


def _over_maps(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of LossMaps as one of dense arrays."""

    def run(maps: Any, **rest: Any) -> Any:
        return function(pl.LossMaps.from_dense(maps), **rest)

    return run


def matching_arrays(count: int = COUNT) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    features = smooth_features(rng, CHANNELS, MAP)
    xy = rng.uniform(1, [MAP[1] - 2, MAP[0] - 2], (count, 2))
    descriptors = 8 * bilinear(features, xy)
    return {
        "descriptors": descriptors.astype(np.float32),
        "features": features.astype(np.float32),
        "centers": xy,
    }


def attention_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    sizes = {"queries": (COUNT, 8), "keys": (15, 8), "values": (15, 5)}
    return {n: rng.normal(size=(2, 3, *s)).astype(np.float32) for n, s in sizes.items()}


def transport_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(2, 9, COUNT)).astype(np.float32)
    masses = {"log_row_mass": (2, 9), "log_column_mass": (2, COUNT)}
    uniform = {n: np.full(s, -np.log(s[1]), np.float32) for n, s in masses.items()}
    return {"scores": scores, **uniform}


def patch_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    sizes = {"scores": (2, 6, COUNT), "features": (2, 5, COUNT)}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in sizes.items()}


def vlad_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    sizes = {"features": (2, 5, COUNT), "logits": (2, 6, COUNT), "centroids": (6, 5)}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in sizes.items()}


def metadata_volume_call() -> Call:
    """Cameras as arrays; what may have any width or length is tested beside the operator."""
    rng = np.random.default_rng(12)
    intrinsics = np.array([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]])
    poses = np.stack([np.eye(3, 4) + 0.05 * rng.normal(size=(3, 4)) for _ in range(2)])
    features = {"reference": (3, 7, 9), "sources": (2, 3, 7, 9)}
    weights = ((6, 20), (6,), (5, 6), (5,), (2, 5), (2,))
    return Call(
        "metadata_cost_volume", _named("metadata_cost_volume"),
        {"K_reference": intrinsics, "K_sources": np.stack([intrinsics] * 2),
         "source_from_reference": poses},
        {**{n: rng.normal(size=s).astype(np.float32) for n, s in features.items()},
         "depths": np.geomspace(0.5, 4.0, 3),
         "mlp_weights": tuple(rng.normal(size=s).astype(np.float32) for s in weights)},
    )  # fmt: skip


def sweep_arrays() -> dict[str, np.ndarray]:
    given = vars(scene((2, 3, 5, 7, 11)))
    narrow = {n: given[n].astype(np.float32) for n in ("reference", "sources")}
    return {**given, **narrow}


def operator_calls() -> list[Call]:
    """The operators; those not built yet are left out by `all_calls`."""
    matching = matching_arrays()
    pair = {k: matching[k] for k in ("descriptors", "features")}
    maps, problem = loss_maps_problem()
    pose = {"points3d": problem.points3d, "cam_from_world": problem.start}
    matches = {"points2d": problem.points2d, "points3d": problem.points3d}
    cam = {"camera": problem.camera}
    rays = problem.camera.unproject(problem.points2d).reshape(-1, 3, 3)
    p3p = {"bearings": rays, "points3d": problem.points3d.reshape(-1, 3, 3)}
    poses = np.stack([problem.start, problem.cam_from_world, np.eye(3, 4)])
    xy = pl.map_from_image(problem.points2d, problem.camera.size, MAP)
    h = bilinear(matching["features"], np.clip(xy, 0, np.array(MAP[::-1]) - 1.01))
    fpr = {"descriptors": h.astype(np.float32), "features": matching["features"], **pose}
    same = ("points2d", "points3d")
    return [
        Call("match", _named("match"), pair, {"quantile": 0.01, "entropy": True}),
        Call("correlation_maps", _named("correlation_maps"), pair),
        Call("correspondence_maps", _named("correspondence_maps"), pair),
        Call("loss_maps", _named("loss_maps"), pair),
        Call("local_loss_maps", _named("local_loss_maps"), matching, {"window": 8},
             per_point=("descriptors", "centers"), not_finite_allowed=("centers",)),
        Call("nre_loss", _named("nre_loss"), {**pair, "targets": matching["centers"]},
             per_point=("descriptors", "targets")),
        Call("p3p", _named("p3p"), p3p, per_point=("bearings", "points3d")),
        Call("estimate_pose", _over_maps(_named("estimate_pose")),
             {"maps": maps, "points3d": problem.points3d}, cam, per_point=("maps", "points3d")),
        Call("refine_pose", _over_maps(_named("refine_pose")), {"maps": maps, **pose}, cam,
             per_point=("maps", "points3d")),
        Call("score_poses", _over_maps(_named("score_poses")),
             {"maps": maps, "points3d": problem.points3d, "cam_from_world": poses}, cam,
             per_point=("maps", "points3d"), result_per_point=False),
        Call("estimate_pose_from_matches", _named("estimate_pose_from_matches"), matches, cam,
             per_point=same),
        Call("refine_pose_reprojection", _named("refine_pose_reprojection"),
             {**matches, "cam_from_world": problem.start, "weights": np.ones(COUNT)}, cam,
             per_point=(*same, "weights")),
        Call("refine_pose_featuremetric", _named("refine_pose_featuremetric"), fpr, cam,
             per_point=("descriptors", "points3d")),
        Call("gated_attention", _named("gated_attention"), attention_arrays(),
             flexible=("queries", "keys", "values")),
        Call("dual_softmax", _named("dual_softmax"), {"scores": transport_arrays()["scores"]},
             {"temperature": 0.5}, flexible=("scores",), not_finite_allowed=("scores",)),
        Call("sinkhorn", _named("sinkhorn"), transport_arrays(), {"iterations": 5},
             flexible=("scores", "log_row_mass", "log_column_mass"), not_finite_allowed=("scores",)),
        Call("salad_aggregate", _named("salad_aggregate"), patch_arrays(),
             {"dustbin": 1.0, "token": None}, flexible=("scores", "features"),
             not_finite_allowed=("scores",)),
        Call("salad_assign", _named("salad_assign"), {"scores": patch_arrays()["scores"]},
             {"dustbin": 1.0}, flexible=("scores",), not_finite_allowed=("scores",)),
        Call("netvlad_aggregate", _named("netvlad_aggregate"), vlad_arrays(),
             flexible=("features", "logits")),
        metadata_volume_call(),
        Call("plane_sweep", _named("plane_sweep"), sweep_arrays(),
             flexible=("reference", "sources", "K_reference", "K_sources",
                       "source_from_reference", "depths")),
    ]  # fmt: skip


def _filter_matches(log_probability: Any, quantile_ratio: Any, entropy: Any) -> Any:
    matches = pl.Matches(None, log_probability, quantile_ratio, entropy)
    return pl.filter_matches(matches, min_probability=0.2, min_quantile_ratio=1.2, max_entropy=4.0)


def filter_calls() -> list[Call]:
    """What chooses among matches."""
    matching = matching_arrays()
    pair = {k: matching[k] for k in ("descriptors", "features")}
    rng = np.random.default_rng(8)
    values = {
        "log_probability": -rng.exponential(1.0, COUNT).astype(np.float32),
        "quantile_ratio": rng.uniform(1, 2, COUNT).astype(np.float32),
        "entropy": rng.uniform(0, 6, COUNT).astype(np.float32),
    }
    near = {"xy": np.round(matching["centers"]), **pair}
    rows = {"first": rng.normal(size=(COUNT, 8)), "second": rng.normal(size=(COUNT + 3, 8))}
    return [
        Call("filter_matches", _filter_matches, values, per_point=tuple(values),
             not_finite_allowed=tuple(values), threaded=False, reference=False),
        Call("cyclic_check", pl.cyclic_check, near, {"max_distance": 2.0},
             per_point=("xy", "descriptors")),
        Call("mutual_matches", pl.mutual_matches,
             {k: v.astype(np.float32) for k, v in rows.items()}, reference=False),
    ]  # fmt: skip


def container_calls() -> list[Call]:
    """LossMaps' methods on arrays."""
    maps, problem = loss_maps_problem()
    xy = pl.map_from_image(problem.points2d, problem.camera.size, MAP)
    same = {"per_point": ("maps",), "reference": False}
    return [
        Call("LossMaps.from_dense", from_dense, {"maps": maps}, **same),
        Call("LossMaps.evaluate", _over_maps(pl.LossMaps.evaluate), {"maps": maps, "xy": xy},
             flexible=("xy",), not_finite_allowed=("xy",), per_point=("maps", "xy"), reference=False),
        Call("LossMaps.mass", _over_maps(pl.LossMaps.mass), {"maps": maps, "centers": xy},
             {"window": 5.0}, per_point=("maps", "centers"), not_finite_allowed=("centers",),
             reference=False),
    ]  # fmt: skip


def geometry_calls() -> list[Call]:
    problem = reprojection_problem(COUNT, 4, noise=0.0)
    poses = np.stack([problem.cam_from_world, problem.start])
    plain = {"threaded": False, "reference": False}
    open_ = {
        **plain,
        "not_finite_allowed": ("cam_from_world", "pose", "a_from_b", "b_from_c", "xy"),
    }
    sizes = {"image_size": (768, 1024), "map_size": MAP}
    points_cam = pl.transform_points(problem.cam_from_world, problem.points3d)
    quaternion = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    cam = camera("OPENCV")
    return [
        Call("camera_center", pl.camera_center, {"cam_from_world": poses}, flexible=("cam_from_world",),
             **open_),
        Call("inverse_pose", pl.inverse_pose, {"pose": poses}, flexible=("pose",), **open_),
        Call("compose_poses", pl.compose_poses, {"a_from_b": poses, "b_from_c": poses},
             flexible=("a_from_b", "b_from_c"), **open_),
        Call("transform_points", pl.transform_points,
             {"pose": problem.cam_from_world, "points3d": problem.points3d}, flexible=("pose",), **open_),
        Call("rotation_from_quaternion", pl.rotation_from_quaternion, {"qvec": quaternion},
             flexible=("qvec",), **plain),
        Call("quaternion_from_rotation", pl.quaternion_from_rotation, {"rotation": poses[:, :, :3]},
             flexible=("rotation",), **plain),
        Call("map_from_image", pl.map_from_image, {"xy": problem.points2d}, sizes, flexible=("xy",),
             **open_),
        Call("image_from_map", pl.image_from_map, {"xy": problem.points2d}, sizes, flexible=("xy",),
             **open_),
        Call("scale_intrinsics", pl.scale_intrinsics, {"K": cam.K}, sizes, **plain),
        Call("Camera.project", cam.project, {"points_cam": points_cam}, **plain),
        Call("Camera.unproject", cam.unproject, {"xy": problem.points2d}, **plain),
    ]  # fmt: skip


def depth_calls() -> list[Call]:
    """Planes of a sweep and what is read out of its volume."""
    rng = np.random.default_rng(12)
    poses = np.concatenate([np.tile(np.eye(3), (2, 4, 1, 1)), rng.normal(size=(2, 4, 3, 1))], -1)
    K = np.array([[300.0, 0, 160], [0, 310, 120], [0, 0, 1]])
    volume = rng.normal(size=(2, 8, 5, COUNT)).astype(np.float32)
    planes = pl.log_depth_planes(0.5, 10.0, 8)
    plain = {"threaded": False, "reference": False}
    ends = {"near": np.array([0.5, 0.4]), "far": np.array([10.0, 8.0])}
    depth = np.exp(rng.normal(size=(2, 5, COUNT)))
    return [
        Call("depth_range", pl.depth_range, {"K": K, "source_from_reference": poses},
             {"size": (240, 320)}, flexible=("K", "source_from_reference"), **plain),
        Call("log_depth_planes", pl.log_depth_planes, ends, {"count": 5}, flexible=("near", "far"),
             **plain),
        Call("refine_depth_range", pl.refine_depth_range, {"depth": depth, **ends},
             flexible=("depth", "near", "far"), **plain),
        Call("soft_argmax_depth", pl.soft_argmax_depth, {"volume": volume, "depths": planes},
             flexible=("volume", "depths"), **plain),
        Call("volume_confidence", pl.volume_confidence, {"volume": volume}, flexible=("volume",),
             **plain),
    ]  # fmt: skip


def _named(name: str) -> Callable[..., Any]:
    return getattr(pl, name, None)  # type: ignore[return-value]


def all_calls() -> list[Call]:
    operators = [c for c in operator_calls() if hasattr(pl, c.name)]
    return operators + filter_calls() + container_calls() + geometry_calls() + depth_calls()


def arrays_in(result: Any) -> list[np.ndarray]:
    """Every array of a result, in a fixed order."""
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, pl.LossMaps):
        rows = (result.row_ptr, result.xy, result.gain, result.origins, result.flat_gain)
        return [a for a in rows if a is not None]
    if isinstance(result, tuple):
        return [a for part in result for a in arrays_in(part)]
    if is_dataclass(result):
        return [a for f in fields(result) for a in arrays_in(getattr(result, f.name))]
    return []


def check_result(result: Any) -> None:
    """What holds for every result, whatever went in."""
    if isinstance(result, pl.PoseEstimate):
        assert result.cam_from_world.shape == (3, 4) and np.isfinite(result.cam_from_world).all()
        R = result.cam_from_world[:, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
        assert isinstance(result.success, (bool, np.bool_)) and result.reason
        assert result.covariance.shape == (6, 6) and not np.isnan(result.covariance).any()
        probability = result.inlier_probability
        assert ((probability >= 0) & (probability <= 1)).all()
        assert np.isfinite([result.cost, result.gain]).all()
        known = np.isfinite(result.covariance).all()
        assert known or np.isinf(result.covariance).all()
        assert result.success or not known
    elif isinstance(result, pl.LossMaps):
        assert (result.gain > 0).all() and np.isfinite(result.gain).all()
        assert (np.diff(result.row_ptr) >= 0).all()
        np.testing.assert_array_less(result.dense(), result.log_cardinality * (1 + 1e-6))
    elif isinstance(result, pl.P3PSolutions):
        assert np.isfinite(result.cam_from_world[result.valid]).all()
