# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What `evaluate_depth` runs: the sweep without weights, or a multi-view network, on samples of a set."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._checks import known_name
from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.depth.layouts.depth_set import DepthSample, SampleView
from pyloc_core.depth.posed_images import PosedImage, poses_from
from pyloc_core.depth.sweep_stereo import SweepStereo
from pyloc_core.depth_planes import depth_range
from pyloc_core.geometry import Size

RANGES = ("cameras", "given")


class _Predictor:
    """Images and cameras of a sample at one size, and the range of depths to look in.

    Args:
        size: (H, W) that the images are resampled to; None for their own.
        range_from: "cameras" for `depth_range`, what a method without a known range has; "given" for the
            sample's own, where the set has one.
    """

    def __init__(self, size: Size | None = None, range_from: str = "cameras") -> None:
        known_name("range", range_from, RANGES)
        self.size, self.range_from = size, range_from

    def limits(self, sample: DepthSample, K: Any, poses: Any, size: Size) -> tuple[float, float]:
        """(near, far). ValueError where a given range is asked for and the set has none."""
        if self.range_from == "given":
            if sample.depth_range is None:
                raise ValueError(f"{sample.name} comes without a range of depths")
            return sample.depth_range
        near, far = depth_range(K, poses, size)
        return float(near), float(far)

    def loaded(self, view: SampleView) -> tuple[npt.NDArray[np.uint8], Camera]:
        image = view.read()
        K = view.K
        camera = Camera(
            "PINHOLE", image.shape[1], image.shape[0], (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        )
        if self.size is not None and image.shape[:2] != self.size:
            cv2 = require("cv2", "resizing images")
            image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
            camera = camera.resized(self.size)
        return image, camera


class SweepPredictor(_Predictor):
    """Depth by `SweepStereo`, without weights.

    Args:
        stereo: None for the defaults.
        size: (H, W) that the images are resampled to; None for their own.
        range_from: "cameras" or "given", where the range of depths comes from.
        least_confidence: pixels whose best views correlate less are 0, as are those that no source sees:
            for `evaluate_depth(..., sparse=True)`. None: every pixel has a depth, unseen ones the far end.
        confidence: give the sweep's confidence besides.
    """

    def __init__(
        self,
        stereo: SweepStereo | None = None,
        *,
        size: Size | None = None,
        range_from: str = "cameras",
        least_confidence: float | None = None,
        confidence: bool = False,
    ) -> None:
        super().__init__(size, range_from)
        self.stereo, self.least_confidence = stereo or SweepStereo(), least_confidence
        self.confidence = confidence

    def __call__(self, sample: DepthSample) -> Any:
        reference, *sources = (self._posed(v) for v in (sample.reference, *sample.sources))
        poses = _relative(sample)
        near, far = self.limits(sample, sources[0].camera.K, poses, sources[0].size)
        depth, confidence = self.stereo(reference, sources, near, far)
        if self.least_confidence is not None:
            depth = np.where(confidence >= self.least_confidence, depth, np.float32(0))
        else:
            depth = np.where(depth > 0, depth, np.float32(far))
        return (depth, confidence) if self.confidence else depth

    def _posed(self, view: SampleView) -> PosedImage:
        image, camera = self.loaded(view)
        none = np.zeros(0, np.int64)
        return PosedImage(view.name, image, camera, view.cam_from_world, none, np.zeros((0, 3)))


class NetworkPredictor(_Predictor):
    """Depth by a network with MVSAnywhere's `predict` (images, K, K of the sources, poses, depth_range).

    Args:
        model: the network; sky is not cut out of its depth.
        size: of its input, (480, 640) for the published weights; images of one set may differ in size,
            which the network does not take, so without one that is an error.
        range_from: "cameras" lets the network find the range itself.
        options: of `model.predict`.
    """

    def __init__(
        self, model: Any, *, size: Size | None = None, range_from: str = "cameras", **options: Any
    ) -> None:
        super().__init__(size, range_from)
        self.model, self.options = model, options

    def __call__(self, sample: DepthSample) -> Any:
        (image, camera), *others = (self.loaded(v) for v in (sample.reference, *sample.sources))
        options = dict(self.options)
        if self.range_from == "given":
            options["depth_range"] = self.limits(sample, None, None, camera.size)
        found = self.model.predict(
            image,
            [each for each, _ in others],
            camera.K,
            np.stack([each.K for _, each in others]),
            _relative(sample),
            **options,
        )
        return found.depth[0]


def _relative(sample: DepthSample) -> npt.NDArray[np.float64]:
    """(V, 3, 4) source from reference."""
    if not sample.sources:
        raise ValueError(f"{sample.name} has no source view")
    return poses_from(sample.reference, sample.sources)
