# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth along a sequence: every image goes through the matching encoder once, however often it is a
source."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyloc_core import _arrays, _checks
from pyloc_core.models.mvsanywhere.cameras import checked_cameras, size_of
from pyloc_core.models.mvsanywhere.combiner import Tokens
from pyloc_core.models.mvsanywhere.network import MVSAnywhere
from pyloc_core.models.mvsanywhere.prediction import DepthPrediction


@dataclass(frozen=True)
class _View:
    """A preprocessed image (1, 3, H, W), its matching features (1, C, h, w) and its camera."""

    pixels: Tensor
    features: Tensor
    K: npt.NDArray[np.float64]
    cam_from_world: npt.NDArray[np.float64]


class DepthSequence:
    """The last views of a moving camera, ready to be matched.

    Args:
        model: a network of this folder.
        capacity: views that are kept; the one that was added first makes room. A view of 480 x 640 takes
            4.9 MB with the published sizes.
        half: float16 on a GPU, bfloat16 on the CPU, for the network (not for the volume's geometry).

    The tokens of the reference are kept too, until another image is the reference.
    """

    def __init__(self, model: MVSAnywhere, *, capacity: int = 30, half: bool = False) -> None:
        if not isinstance(model, MVSAnywhere):
            raise TypeError(f"model must be an MVSAnywhere, got {type(model).__name__}")
        self.model, self.half = model, bool(half)
        self.capacity = _checks.integer("capacity", capacity, 2)
        self._views: OrderedDict[Hashable, _View] = OrderedDict()
        self._mono: tuple[_View, list[Tokens]] | None = None

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._views

    def keys(self) -> list[Hashable]:
        """Of the views that are kept, first added first."""
        return list(self._views)

    def add(self, key: Hashable, image: Any, K: Any, cam_from_world: Any) -> None:
        """Encode an image (H, W, 3) RGB or (H, W), uint8.

        Args:
            key: any name; a view of that name is replaced.
            K: (3, 3) intrinsics in image pixels.
            cam_from_world: (3, 4) or (4, 4).

        Raises ValueError for what has another shape or is not finite.
        """
        pose = _arrays.as_array(cam_from_world, "cam_from_world").data
        if pose.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"cam_from_world must be (3, 4) or (4, 4), got {pose.shape}")
        square = np.vstack([pose[:3], [0.0, 0.0, 0.0, 1.0]])
        matrix = _arrays.as_array(K, "K", shape=(3, 3)).data
        with self.model.evaluating(half=self.half):
            pixels = self.model.preprocess(image)
            view = _View(pixels, self.model.matching_features(pixels), matrix, square)
        self._views.pop(key, None)
        self._views[key] = view
        while len(self._views) > self.capacity:
            self._views.popitem(last=False)

    def predict(
        self, reference: Hashable, sources: Sequence[Hashable], **options: Any
    ) -> DepthPrediction:
        """Depth of the view `reference` from the views `sources`, of one size, in batches of one.

        Args:
            reference, sources: keys; sort the sources by pose distance, as the published program does:
                the first one's focal length decides the depth range.
            options: depth_range, refinements, scales, return_volume, as of `MVSAnywhere.forward`.

        Raises ValueError for views that are not kept (any more), and as `MVSAnywhere.forward`.
        """
        of_reference, views = self._view(reference), [self._view(key) for key in sources]
        if not views:
            raise ValueError("sources must name at least one view")
        if reference in sources:
            raise ValueError(f"the reference is among its own sources: {reference!r}")
        sizes = {size_of(view.pixels) for view in views}
        if len(sizes) > 1:
            raise ValueError(f"sources must be of one size, got {sorted(sizes)}")
        back = np.linalg.inv(of_reference.cam_from_world)
        cameras = checked_cameras(
            (
                of_reference.K,
                np.stack([view.K for view in views]),
                np.stack([view.cam_from_world @ back for view in views]),
            ),
            (size_of(of_reference.pixels), sizes.pop()),
            (1, len(views)),
            device=self.model.device,
        )
        with self.model.evaluating(half=self.half):
            if self._mono is None or self._mono[0] is not of_reference:
                self._mono = of_reference, self.model.mono_features(of_reference.pixels)
            features = torch.cat([view.features for view in views])[None]
            return self.model.predict_from_features(
                of_reference.features, features, self._mono[1], cameras, **options
            )

    def _view(self, key: Hashable) -> _View:
        if key not in self._views:
            raise ValueError(f"there is no view {key!r}: never added, or it has made room since")
        return self._views[key]
