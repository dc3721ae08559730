# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Fine descriptors of points as a query at a known pose would see them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.features import Float32
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import LocalizerOptions
from pyloc_core.localization.patches import affine_between
from pyloc_core.localization.selection import nearest_observations

Array = npt.NDArray[np.float64]


class Patches(NamedTuple):
    """Descriptors (K, D) and the point (K,) each belongs to, ascending."""

    descriptors: Float32
    owner: npt.NDArray[np.int64]


class FinePatches:
    """Chooses the observations of each point that resemble a query best, and describes them.

    A descriptor with `describe_warped` sees the reference patch warped into the query by the coarse
    pose. Without it, of the stored descriptors the one at the nearest scale is taken.
    """

    def __init__(self, model: Map, descriptor: Any, options: LocalizerOptions) -> None:
        self.model, self.descriptor, self.options = model, descriptor, options
        self.warps = hasattr(descriptor, "describe_warped") and bool(len(model.images))

    def describe(
        self, points: npt.NDArray[np.int64], query: Camera, query_from_world: Array
    ) -> Patches:
        """Up to `fine_views` descriptors per point (N,) for a camera at a pose."""
        options = self.options
        chosen = nearest_observations(
            self.model, points, query_from_world, options.max_angle, options.fine_views
        )
        affine = np.empty((len(chosen.obs), 2, 2))
        usable = np.zeros(len(chosen.obs), bool)
        view_of = self.model.obs_view[chosen.obs]
        for view in np.unique(view_of):
            rows = np.flatnonzero(view_of == view)
            affine[rows], usable[rows] = affine_between(
                self.model.xyz[points[chosen.owner[rows]]], self.model.cameras[view],
                self.model.cam_from_world[view], query, query_from_world,
            )  # fmt: skip
        keep = np.flatnonzero(usable)
        obs, affine, owner = chosen.obs[keep], affine[keep], chosen.owner[keep]
        if self.warps:
            return Patches(self._warped(obs, affine), owner)
        return Patches(self._stored(obs, affine), owner)

    def _warped(self, obs: npt.NDArray[np.int64], affine: Array) -> Float32:
        view_of = self.model.obs_view[obs]
        out: Float32 | None = None
        for view in np.unique(view_of):
            rows = np.flatnonzero(view_of == view)
            described = self.descriptor.describe_warped(
                self.model.images[view], np.asarray(self.model.obs_xy[obs[rows]]), affine[rows]
            )
            if out is None:
                out = np.empty((len(obs), described.shape[1]), np.float32)
            out[rows] = described
        return np.zeros((0, 1), np.float32) if out is None else out

    def _stored(self, obs: npt.NDArray[np.int64], affine: Array) -> Float32:
        stored = self.model.coarse if self.model.fine is None else self.model.fine
        scale = np.sqrt(np.abs(np.linalg.det(affine))) if len(affine) else np.zeros(0)
        away = np.abs(np.log(np.maximum(scale, 1e-6))[:, None] - np.log(self.model.options.scales))
        return np.asarray(stored[obs, away.argmin(1)], np.float32)
