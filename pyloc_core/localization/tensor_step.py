# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The localization step on features that are already computed: from descriptors to a pose, where they lie.

`Localizer` goes from a photo to a pose and looks at every stage's outcome on the way. A real-time loop
on a GPU cannot afford to look: here the stages follow each other without waiting for the device, and the
whole of it can be captured once in a CUDA graph and replayed for every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyloc_core import _arrays, _dispatch, _projection
from pyloc_core.camera import Camera, camera_native_args
from pyloc_core.localization.options import LocalizerOptions
from pyloc_core.ops.estimate_pose import estimate_pose
from pyloc_core.ops.local_loss_maps import local_loss_maps
from pyloc_core.ops.loss_maps import loss_maps
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.pose import PoseEstimates


@dataclass(frozen=True, eq=False)
class Stage:
    """What one stage compares: the points' descriptors with a photo's features.

    Attributes:
        descriptors: (N, D) tensor, one per point.
        features: (D, H, W) tensor over the whole photo.
        temperature: of the softmax.
        stride: pixels per cell.
    """

    descriptors: Any
    features: Any
    temperature: float = 1.0
    stride: float = 1.0


def pose_from_features(
    points3d: Any,
    camera: Camera,
    coarse: Stage,
    fine: Stage | None = None,
    *,
    initial: Any = None,
    iterations: int = 1024,
    seed: int = 0,
    options: LocalizerOptions | None = None,
    implementation: str | None = None,
) -> PoseEstimates:
    """Pose of one photo from descriptors of N points and the photo's features, all on one device.

    Loss maps over the whole photo, sample consensus, graduated non-convexity on them, and, with a
    fine stage, loss maps in windows around the reprojections and the same refinement on those
    (thesis, section 4.4). Nothing waits for the device. A stage that failed hands its placeholder on:
    look at `success`, which is that of the last stage, when the result is needed.

    Args:
        points3d: (N, 3) float64 tensor, world frame.
        camera: of the photo that the features cover, image pixels.
        coarse, fine: the two stages.
        initial: (3, 4) float64 tensor, one more hypothesis.
        iterations: triplets to draw. A fixed number: an adaptive one costs as many launches.
        seed: of the sampling.
        options: window, sigmas and entries per map; the localizer's defaults.
        implementation: None for what the device has, or a name that every operator of the step has.

    Returns:
        PoseEstimates of one problem, tensors on the device of `points3d`.

    Raises:
        TypeError, ValueError: arguments that are no tensors or do not fit, by name.
    """
    torch = _arrays.torch_module()
    tensors = {"points3d": points3d, "coarse.descriptors": coarse.descriptors}
    for name, value in tensors.items():
        if torch is None or not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}")
    options = options or LocalizerOptions()
    maps = loss_maps(
        coarse.descriptors, coarse.features, temperature=coarse.temperature,
        max_entries=options.max_entries, implementation=implementation,
    )  # fmt: skip
    ptr = _one_problem(len(maps), points3d.device)
    common = {"problem_ptr": ptr, "implementation": _poses_by(implementation)}
    start = estimate_pose(
        maps, points3d, camera, initial=None if initial is None else initial[None],
        iterations=iterations, seed=seed, **common,
    )  # fmt: skip
    found = _refine(maps, points3d, camera, start, options.sigma_coarse, common)
    if fine is None:
        return found
    centres = _centres(camera, found, points3d, fine, ptr)
    windows = local_loss_maps(
        fine.descriptors, fine.features, centres, window=options.window,
        strides=(fine.stride, coarse.stride), temperature=fine.temperature,
        max_entries=options.max_entries, implementation=implementation,
    )  # fmt: skip
    return _refine(windows, points3d, camera, found, options.sigma_fine, common)


def _poses_by(implementation: str | None) -> str | None:
    """The correlation operators run in Triton, the pose operators in CUDA: one name forces the tier."""
    return None if implementation == "triton" else implementation


def _refine(
    maps: Any,
    points3d: Any,
    camera: Camera,
    start: PoseEstimates,
    sigmas: Any,
    common: dict[str, Any],
) -> PoseEstimates:
    return refine_pose(
        maps,
        points3d,
        camera,
        start.cam_from_world,
        sigma_max=sigmas[0],
        sigma_min=sigmas[1],
        **common,
    )


def _one_problem(count: int, device: Any) -> Any:
    """(2,) int64 [0, count] on the device, made there: a copy from the host could not be captured."""
    torch = _arrays.torch_module()
    return torch.arange(2, device=device) * count


def _centres(camera: Camera, found: PoseEstimates, points3d: Any, fine: Stage, ptr: Any) -> Any:
    """(N, 2) float64 reprojections in cells of the fine map; NaN, which drops a window, outside the photo."""
    torch = _arrays.torch_module()
    height, width = (int(n) for n in fine.features.shape[1:])
    values = camera_native_args(camera, (height, width))
    row = torch.cat([points3d.new_full((1,), v, dtype=torch.float64) for v in values])[None]
    xy, front = _projection.project_problems(row, found.cam_from_world, points3d.double(), ptr)
    edge = torch.cat([row.new_full((1,), n - 0.5) for n in (width, height)])
    inside = front & (xy >= -0.5).all(1) & (xy < edge).all(1)
    return torch.where(inside[:, None], xy, torch.full_like(xy, float("nan")))


class CapturedStep:
    """`pose_from_features` captured in a CUDA graph: one launch per frame, no Python between kernels.

    The arguments' tensors become the graph's inputs: write a frame's values into them (`copy_`) and call
    `replay`. The result's tensors are the graph's outputs and are overwritten by the next replay.

    Args: those of `pose_from_features`; all tensors on one CUDA device, `implementation` left out.

    Raises RuntimeError where there is no CUDA device.
    """

    def __init__(
        self,
        points3d: Any,
        camera: Camera,
        coarse: Stage,
        fine: Stage | None = None,
        **options: Any,
    ) -> None:
        torch = _arrays.torch_module()
        if torch is None or not torch.cuda.is_available() or points3d.device.type != "cuda":
            raise RuntimeError("CapturedStep needs tensors on a CUDA device")
        if _dispatch.cuda_module() is None:
            raise RuntimeError("CapturedStep needs the CUDA kernels (PYLOC_CUDA=on builds them)")
        self.points3d, self.coarse, self.fine = points3d, coarse, fine
        run = lambda: pose_from_features(points3d, camera, coarse, fine, **options)  # noqa: E731
        side = torch.cuda.Stream(points3d.device)
        side.wait_stream(torch.cuda.current_stream(points3d.device))
        # The tensors' device need not be the current one: the stream would default to that.
        with torch.cuda.device(points3d.device):
            with torch.cuda.stream(side):  # compiles kernels and warms the allocator
                for _ in range(2):
                    run()
            torch.cuda.current_stream(points3d.device).wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=side):
                self.result: PoseEstimates = run()

    def replay(self) -> PoseEstimates:
        """Run the step on what the input tensors hold now. Does not wait for the device."""
        self.graph.replay()
        return self.result
