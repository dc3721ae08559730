# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Test-time refinement of a depth network by the sparse depths of structure from motion.

SfM-TTR: Izquierdo and Civera, CVPR 2023; thesis, chapter 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core import _arrays, _checks
from pyloc_core._extras import require
from pyloc_core.depth import gradient_steps
from pyloc_core.depth.gradient_steps import Snapshot, StepOptions, predicted_depth
from pyloc_core.depth.scale_alignment import (
    ESTIMATORS,
    SUPERVISION,
    THRESHOLD,
    ScaleAlignment,
    align_scale,
)
from pyloc_core.depth.sfm_supervision import SfmView, nearest_cells, sfm_supervision
from pyloc_core.localization.images import read_image

WEIGHTS = ("reprojection_error", "uniform")


@dataclass(frozen=True)
class RefinementOptions(StepOptions):
    """How a network is refined; beside the steps:

    Attributes:
        weights: of the points: "reprojection_error" e as exp(-e^2), or "uniform".
        threshold, trials, estimator, supervision: of `align_scale`.
        align_corners: read the depth map as SfM-TTR publishes it (`nearest_cells`); by default in the
            pixel that an observation lies in.
        published_indexing: visit the first k of all images, k being how many have points, as the
            published program does: some images with points are then left out where others, before them, have
            none, whose steps do nothing. By default exactly the images with points.
    """

    weights: str = "reprojection_error"
    threshold: float = THRESHOLD
    trials: int | None = None
    estimator: str = "weighted_least_squares"
    supervision: str = "relaxed"
    align_corners: bool = False
    published_indexing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.known_name("weights", self.weights, WEIGHTS)
        _checks.known_name("estimator", self.estimator, ESTIMATORS)
        _checks.known_name("supervision", self.supervision, SUPERVISION)
        _checks.number("threshold", self.threshold, positive=True)
        if self.trials is not None:
            _checks.integer("trials", self.trials, 1)

    @classmethod
    def published(cls, **changes: Any) -> RefinementOptions:
        """As the published program does it: training mode, 20 random trials, its reading and indexing."""
        same: dict[str, Any] = dict(
            train_mode=True, trials=20, align_corners=True, published_indexing=True
        )
        return cls(**{**same, **changes})


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined network.

    Attributes:
        network: as it was given; its parameters have changed.
        losses: (steps,) float64.
        visited: names of the images, one per step.
        alignment: scale and inliers of all points, view by view as `views` has them.
        views: the supervision after alignment: inliers alone, depths in units of the model.
        depth_maps: image -> (H, W) tensor after refinement, in units of the network, where asked for.
    """

    network: Callable[[Any], Any]
    losses: Any
    visited: tuple[str, ...]
    alignment: ScaleAlignment
    views: tuple[SfmView, ...]
    depth_maps: dict[str, Any]
    _before: Snapshot = field(repr=False)

    @property
    def scale(self) -> float:
        """Network depth divided by this is depth in units of the SfM model."""
        return self.alignment.scale

    def restore(self) -> None:
        """Write the parameters and buffers from before the refinement back, for the next scene."""
        self._before.restore()


def refine_network(
    network: Callable[[Any], Any],
    parameters: Iterable[Any],
    sfm_model: Any,
    images: Mapping[str, Any] | str | Path,
    *,
    modules: Sequence[Any] | None = None,
    options: RefinementOptions | None = None,
    depth_maps: bool = False,
    progress: bool = True,
) -> Refinement:
    """Make a single-view depth network better at one scene, with the points that SfM triangulated in it.

    The network's depths of all images, read where the points were observed, give one scale
    (`align_scale`). Then `parameters` are stepped by Adam on the loss of Eq. 8.8, one image a step.
    Everything else of the network is left as it was, mode, gradients and buffers included (in training mode
    BatchNorm's running statistics move). The same arguments give the same bits on a CPU; on a GPU as far as
    the network's own operators are deterministic.

    Args:
        network: from an image to its depth map, (H, W) with leading ones, positive, differentiable in
            `parameters`; any resolution and unit. A torch module, or a function.
        parameters: what to change. The chapter changes the encoder alone: the decoder goes on drawing sharp
            borders.
        sfm_model: a `pycolmap.Reconstruction`, the folder of one, or the SfmViews of `sfm_supervision`
            (with which points can be cropped).
        images: name in the model -> what `network` takes; or a folder, whose images are read as (1, 3, H, W)
            float32 RGB within [0, 1] on the device of the first parameter.
        modules: the torch modules behind `network` where that is a function.
        options: steps, learning rate, seed, mode, alignment. `RefinementOptions.published()` for the
            published program's behaviour.
        depth_maps: predict all images after the refinement.
        progress: show a progress bar on standard error.

    Returns:
        Refinement.

    Raises:
        ValueError: no images, no points in them, no scale, depths that are not positive and finite, parameters
            that the depth does not depend on.
        TypeError: arguments of another type.
        FloatingPointError: a loss or a parameter that is not finite. After any error the network is as before.
    """
    options = RefinementOptions() if options is None else options
    if not isinstance(options, RefinementOptions):
        raise TypeError(f"options must be RefinementOptions, got {type(options).__name__}")
    chosen = gradient_steps.trainable(parameters)
    held = gradient_steps.modules_of(network, modules)
    views, inputs = _scene(sfm_model, images, chosen[0].device)
    before = gradient_steps.Snapshot(chosen, held)
    with before.on_error(), gradient_steps.seeded(options.seed, chosen[0].device):
        alignment = _align(network, held, views, inputs, options)
    borders = np.cumsum([len(view) for view in views])[:-1]
    parts = np.split(np.asarray(alignment.inliers), borders)
    views = tuple(view.select(part) for view, part in zip(views, parts))
    order = _order(views, options)

    def loss_of(item: int) -> Any:
        view = views[order[item]]
        if not len(view):
            return None
        return _loss(predicted_depth(network, inputs(view.name)), view, alignment.scale, options)

    maps: dict[str, Any] = {}
    with before.on_error():
        stepped = gradient_steps.take_steps(chosen, held, len(order), loss_of, options, progress)
        if depth_maps:  # a refined network that fails here could not be restored by the caller
            with gradient_steps.mode(held, False), _arrays.torch_module().no_grad():
                maps = {view.name: predicted_depth(network, inputs(view.name)) for view in views}
    visited = tuple(views[order[item]].name for item in stepped.visited)
    return Refinement(network, stepped.losses, visited, alignment, views, maps, before)


def sfm_depth_loss(
    depths: Any, sfm_depths: Any, scale: float, reprojection_errors: Any = None
) -> Any:
    """Mean of `exp(-e^2) |y - s t|` over an image's points (Eq. 8.8), a differentiable scalar.

    Args:
        depths: (L,) tensor, the network's depths y.
        sfm_depths: (L,) tensor, t.
        scale: s.
        reprojection_errors: (L,) tensor, e in pixels; None weighs all points alike.
    """
    residual = (depths - scale * sfm_depths).abs()
    if reprojection_errors is not None:
        residual = residual * (-(reprojection_errors**2)).exp()
    return residual.mean()


def _scene(
    sfm_model: Any, images: Any, device: Any
) -> tuple[tuple[SfmView, ...], Callable[[str], Any]]:
    """The views of the images that are there, and what gives the network's input of one."""
    given = isinstance(sfm_model, (tuple, list))
    if given and not all(isinstance(view, SfmView) for view in sfm_model):
        raise TypeError("sfm_model must hold SfmViews, or be a model or its folder")
    if isinstance(images, (str, Path)):
        folder = Path(images)
        views = tuple(sfm_model) if given else sfm_supervision(sfm_model, image_folder=folder)
        return views, lambda name: _read(folder / name, device)
    if not isinstance(images, Mapping):
        raise TypeError(f"images must be a mapping or a folder, got {type(images).__name__}")
    if not images:
        raise ValueError("images is empty")
    views = tuple(sfm_model) if given else sfm_supervision(sfm_model, images)
    absent = [view.name for view in views if view.name not in images]
    if absent:
        raise ValueError(f"images lacks {absent[0]}, which is one of {len(views)} views")
    return views, lambda name: images[name]


def _read(path: Path, device: Any) -> Any:
    torch = require("torch", "refining a network")
    pixels = torch.from_numpy(np.array(read_image(path))).to(device)
    return pixels.permute(2, 0, 1)[None].float() / 255


def _align(
    network: Callable[[Any], Any],
    modules: Sequence[Any],
    views: Sequence[SfmView],
    inputs: Callable[[str], Any],
    options: RefinementOptions,
) -> ScaleAlignment:
    """One scale for the points of all views, with the network as it is."""
    torch, read = _arrays.torch_module(), []
    # The published program predicts in whatever mode the network was built: left as it is, then.
    with gradient_steps.mode(modules, None if options.train_mode else False), torch.no_grad():
        for view in views:
            if len(view):
                depth = predicted_depth(network, inputs(view.name))
                read.append(_at_points(depth, view, options).double().cpu().numpy())
    ids = np.repeat(np.arange(len(views)), [len(view) for view in views])
    found = align_scale(
        np.concatenate([view.depths for view in views] or [np.zeros(0)]),
        np.concatenate(read or [np.zeros(0)]),
        threshold=options.threshold, trials=options.trials, seed=options.seed,
        estimator=options.estimator, supervision=options.supervision,
        image_index=ids if options.estimator == "mean_of_medians" else None,
    )  # fmt: skip
    if not found.success:
        raise ValueError(f"no scale between the model and the network: {found.reason}")
    return found


def _order(views: Sequence[SfmView], options: RefinementOptions) -> list[int]:
    """Which views an epoch visits."""
    there = [i for i, view in enumerate(views) if len(view)]
    return list(range(len(there))) if options.published_indexing else there


def _at_points(depth: Any, view: SfmView, options: RefinementOptions) -> Any:
    """The depth map's values at the points of a view: Eq. 8.3."""
    torch = _arrays.torch_module()
    cells = nearest_cells(
        view.xy, view.size, tuple(depth.shape), align_corners=options.align_corners
    )
    return depth.reshape(-1)[torch.from_numpy(cells).to(depth.device)]


def _loss(depth: Any, view: SfmView, scale: float, options: RefinementOptions) -> Any:
    torch = _arrays.torch_module()
    at = {"dtype": depth.dtype, "device": depth.device}
    errors = torch.as_tensor(view.errors, **at) if options.weights != "uniform" else None
    target = torch.as_tensor(view.depths, **at)
    return sfm_depth_loss(_at_points(depth, view, options), target, scale, errors)
