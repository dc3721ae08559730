# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse-to-dense localization as S2DHM does it: retrieval, ratio test, PnP against one reference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyloc_core.camera import Camera, as_camera
from pyloc_core.geometry import Size, map_from_image
from pyloc_core.localization.images import check_image, read_image
from pyloc_core.localization.map_build import ModelArrays, arrays_of_model
from pyloc_core.models import check_options
from pyloc_core.models.interpolate import sample_cells
from pyloc_core.models.network import as_numpy
from pyloc_core.models.s2dhm.matching import (
    COMPAT,
    FACTOR,
    RATIO,
    check_fractions,
    match_hypercolumns,
    query_pixels,
)
from pyloc_core.models.s2dhm.network import S2DHM
from pyloc_core.models.s2dhm.retrieval import PrincipalComponents, rank_references
from pyloc_core.ops.estimate_pose_from_matches import estimate_pose_from_matches
from pyloc_core.pose import PoseEstimate, transform_points

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class S2DHMOptions:
    """Constants of the published program, as options.

    Attributes:
        ratio, factor: of the ratio test (`ratio_test`); the thesis names factor 0.12 for CMU.
        top_n: reference images tried (the thesis: 15 for RobotCar, 10 for CMU).
        stop_inliers: stop at the first reference with this many inliers (the thesis: 15); None tries
            all and takes the one with most.
        max_error: pixels of the reprojection error of an inlier.
        iterations: triplets drawn for P3P.
        min_matches, min_inliers: fewer are no pose.
        dimensions: of the retrieval descriptors after principal component analysis.
        compat: "published" puts matches where the published program does (`query_pixels`), with the
            reference image's size; None puts them right.
    """

    ratio: float = RATIO
    factor: float = FACTOR
    top_n: int = 30
    stop_inliers: int | None = None
    max_error: float = 12.0
    iterations: int = 5000
    min_matches: int = 6
    min_inliers: int = 12
    dimensions: int = 1024
    compat: str | None = None

    def __post_init__(self) -> None:
        check_fractions(self.factor, self.ratio)
        for name in ("top_n", "iterations", "min_matches", "min_inliers", "dimensions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        if not (math.isfinite(self.max_error) and self.max_error > 0):
            raise ValueError(f"max_error must be positive and finite, got {self.max_error!r}")
        if self.compat not in COMPAT:
            raise ValueError(f"compat must be None or 'published', got {self.compat!r}")


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference image: N points that it sees, described.

    Attributes:
        name: of the image.
        size: (H, W) in pixels.
        cam_from_world: (3, 4).
        xyz: (N, 3) world points.
        descriptors: (N, 2048) float16 hypercolumns at the cells nearest to their projections.
        vector: (32768,) float32 NetVLAD descriptor.
    """

    name: str
    size: Size
    cam_from_world: Array
    xyz: Array
    descriptors: npt.NDArray[np.float16]
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SparseToDense:
    """A result with what led to it.

    Attributes:
        estimate: the pose; its `inlier_probability` belongs to the matches below.
        reference: index of the reference image that gave it, the nearest one without success.
        ranked: indices of the references that were tried, most similar first.
        num_matches: matches that passed the ratio test, per tried reference.
        num_inliers: inliers per tried reference, 0 where there was no pose.
        xy: (N, 2) matches of `reference` that passed, pixels of the photo.
        xyz: (N, 3) their world points.
    """

    estimate: PoseEstimate
    reference: int
    ranked: npt.NDArray[np.int64]
    num_matches: tuple[int, ...]
    num_inliers: tuple[int, ...]
    xy: Array
    xyz: Array


class S2DHMLocalizer:
    """Localizes photos against reference images one by one, as the published program does.

    Args:
        model: the network.
        references: `Reference`s, of `describe_reference`; `build` makes them of a COLMAP model.
        options: `S2DHMOptions`; single ones can be given by name.

    Raises ValueError without references, TypeError for an unknown option.
    """

    def __init__(
        self,
        model: S2DHM,
        references: Iterable[Reference],
        *,
        options: S2DHMOptions | None = None,
        **overrides: Any,
    ) -> None:
        check_options("S2DHMOptions", overrides, [f.name for f in fields(S2DHMOptions)])
        self.options = replace(options or S2DHMOptions(), **overrides)
        self.model = model
        self.references = list(references)
        if not self.references:
            raise ValueError("references must hold one or more images")
        vectors = np.array([reference.vector for reference in self.references])
        self.components = PrincipalComponents.fit(vectors, self.options.dimensions)
        self.vectors = self.components.transform(vectors)

    @classmethod
    def build(
        cls, model: S2DHM, colmap_model: Any, image_folder: str | Path, **options: Any
    ) -> S2DHMLocalizer:
        """From a COLMAP model (folder or pycolmap.Reconstruction) and the folder of its images."""
        return cls.from_arrays(
            model, arrays_of_model(colmap_model, Path(image_folder), in_colour=True), **options
        )

    @classmethod
    def from_arrays(
        cls,
        model: S2DHM,
        arrays: ModelArrays,
        **options: Any,
    ) -> S2DHMLocalizer:
        """From a sparse model as arrays."""
        images = arrays.images
        point_of = np.repeat(np.arange(len(arrays.xyz)), np.diff(arrays.obs_ptr))
        references = (
            describe_reference(
                model, images(view) if callable(images) else images[view], camera, arrays.cam_from_world[view],
                arrays.xyz[point_of[arrays.obs_view == view]], name=arrays.image_names[view],
            )
            for view, camera in enumerate(arrays.cameras)
        )  # fmt: skip
        return cls(model, references, **options)

    def localize(
        self, image: Any, camera: Any, *, seed: int = 0, num_threads: int | None = None
    ) -> PoseEstimate:
        """Pose of a photo: file name, or (H, W, 3) RGB or (H, W) uint8, with its Camera.

        Without success the pose is that of the most similar reference image, as the published
        program answers then, and the reason says so.
        """
        return self.localize_detailed(image, camera, seed=seed, num_threads=num_threads).estimate

    def localize_detailed(
        self, image: Any, camera: Any, *, seed: int = 0, num_threads: int | None = None
    ) -> SparseToDense:
        """`localize`, with the matches and counts that led to the pose."""
        camera = as_camera(camera)
        pixels = read_image(image) if isinstance(image, (str, Path)) else check_image(image)
        if pixels.shape[:2] != camera.size:
            raise ValueError(
                f"image has {pixels.shape[1]} x {pixels.shape[0]} pixels and its camera "
                f"{camera.width} x {camera.height}"
            )
        vector, features = self._described(pixels)
        ranked = rank_references(self.components.transform(vector[None])[0], self.vectors)
        ranked = ranked[: self.options.top_n]
        tried: list[tuple[PoseEstimate, Array, Array, int]] = []
        for index in ranked:
            found = self._against(self.references[index], features, camera, seed, num_threads)
            tried.append(found)
            if self.options.stop_inliers is not None and found[3] >= self.options.stop_inliers:
                break
        best = max(range(len(tried)), key=lambda i: tried[i][3])
        estimate, xy, xyz, inliers = tried[best]
        if inliers == 0:
            best = 0
            estimate, xy, xyz, _ = tried[0]
            estimate = replace(
                estimate, success=False, cam_from_world=self.references[ranked[0]].cam_from_world,
                reason=f"{estimate.reason}; the pose is that of the nearest reference image",
            )  # fmt: skip
        return SparseToDense(
            estimate, int(ranked[best]), ranked[: len(tried)],
            tuple(len(each[1]) for each in tried), tuple(each[3] for each in tried), xy, xyz,
        )  # fmt: skip

    @torch.inference_mode()
    def _described(self, pixels: npt.NDArray[Any]) -> tuple[Any, Any]:
        """(32768,) descriptor and (2048, h, w) map of a photo."""
        prepared = self.model.preprocess(pixels)
        return (
            as_numpy(self.model.netvlad(prepared)[0]),
            as_numpy(self.model.hypercolumn(prepared)[0]),
        )

    def _against(
        self,
        reference: Reference,
        features: npt.NDArray[np.float32],
        camera: Camera,
        seed: int,
        num_threads: int | None,
    ) -> tuple[PoseEstimate, Array, Array, int]:
        """Estimate, matches, their points and the number of inliers against one reference."""
        options = self.options
        tested = match_hypercolumns(
            reference.descriptors.astype(np.float32), features, factor=options.factor,
            ratio=options.ratio, num_threads=num_threads,
        )  # fmt: skip
        size = camera.size if options.compat is None else reference.size
        map_size = (features.shape[1], features.shape[2])
        xy = query_pixels(tested.xy[tested.valid], size, map_size, compat=options.compat)
        xyz = reference.xyz[tested.valid]
        if len(xy) < options.min_matches:
            reason = f"{len(xy)} matches pass the ratio test, {options.min_matches} are needed"
            return PoseEstimate.failed(reason, len(xy)), xy, xyz, 0
        estimate = estimate_pose_from_matches(
            xy, xyz, camera, max_error=options.max_error, iterations=options.iterations, seed=seed,
            num_threads=num_threads,
        )  # fmt: skip
        inliers = int((np.asarray(estimate.inlier_probability) > 0).sum())
        if estimate.success and inliers < options.min_inliers:
            reason = f"{inliers} inliers, {options.min_inliers} are needed"
            estimate = replace(estimate, success=False, reason=reason)
        return estimate, xy, xyz, inliers if estimate.success else 0


@torch.inference_mode()
def describe_reference(
    model: S2DHM,
    image: Any,
    camera: Camera,
    cam_from_world: Any,
    xyz: Any,
    *,
    name: str = "",
) -> Reference:
    """A reference image (H, W, 3) RGB or (H, W), uint8, with the points (N, 3) that it sees.

    Points that project outside the image are left out. ValueError when image and camera differ in size.
    """
    pixels = check_image(image)
    if pixels.shape[:2] != camera.size:
        raise ValueError(f"image {name} and its camera differ in size")
    pose = np.asarray(cam_from_world, np.float64)
    points = np.asarray(xyz, np.float64).reshape(-1, 3)
    xy, front = camera.project(transform_points(pose, points))
    with np.errstate(invalid="ignore"):
        inside = np.asarray(front) & (xy >= 0).all(1) & (xy < [camera.width, camera.height]).all(1)
    prepared = model.preprocess(pixels)
    features = model.hypercolumn(prepared)[0]
    cells = map_from_image(xy[inside], camera.size, (features.shape[1], features.shape[2]))
    nearest = torch.from_numpy(np.rint(cells)).to(features.device)
    return Reference(
        name, camera.size, pose, points[inside],
        as_numpy(sample_cells(features, nearest)).astype(np.float16),
        as_numpy(model.netvlad(prepared)[0]),
    )  # fmt: skip
