# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command `pyloc-core depth`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

# Longer sides that images are shrunk to: of the sweep, and of what the network was trained at.
_SWEEP_SIZE, _NETWORK_SIZE = 1024, 640


def depth(
    model: Annotated[Path, typer.Option("--model", help="Folder of a COLMAP model.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of the model's images.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for everything written.")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Checkpoint of MVSAnywhere; default: none.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Image to leave out; repeatable.")
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option("--max-size", min=64, help="Longer side of the maps; 1024, network 640."),
    ] = None,
    sources: Annotated[
        int, typer.Option("--sources", min=1, help="Views that a depth is estimated from, at most.")
    ] = 8,
    near: Annotated[
        float | None, typer.Option("--near", help="Least depth; default: by the points.")
    ] = None,
    far: Annotated[float | None, typer.Option("--far", help="Largest depth.")] = None,
    planes: Annotated[
        int | None,
        typer.Option("--planes", min=3, help="Of the first sweep; default: by the views."),
    ] = None,
    least_views: Annotated[
        int, typer.Option("--least-views", min=1, help="Other views that must confirm a depth.")
    ] = 2,
    max_reprojection: Annotated[
        float, typer.Option("--max-reprojection", help="Pixels that a confirmed depth may miss by.")
    ] = 1.0,
    max_depth_change: Annotated[
        float, typer.Option("--max-depth-change", help="Relative, of a confirmed depth.")
    ] = 0.01,
    min_confidence: Annotated[
        float | None,
        typer.Option("--min-confidence", help="Depths of the sweep below are dropped (0.15)."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Of the maps: npy, pfm or bin.")] = "npy",
    colmap: Annotated[
        Path | None, typer.Option("--colmap", help="Also write a dense workspace of COLMAP here.")
    ] = None,
    cloud: Annotated[bool, typer.Option("--cloud/--no-cloud", help="Write points.ply.")] = True,
    mesh: Annotated[bool, typer.Option("--mesh", help="Write mesh.ply; needs Open3D.")] = False,
    voxel: Annotated[
        float | None, typer.Option("--voxel", help="Of the mesh, in units of the model.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where the network runs; default: cpu.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Native threads; default: all cores.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Dense depth of every image of a COLMAP model: maps, pictures, a point cloud, a mesh.

    Without --weights by a classical plane sweep. Depths that fewer than two other views confirm are 0.
    The table compares with the model's points, of which the sweep takes the range of depths and the
    choice of source images, no depth.
    """
    from pyloc_core._extras import require
    from pyloc_core.depth.pipeline import DepthOptions, make_depth_maps
    from pyloc_core.depth.posed_images import read_posed_images

    _refuse_unused(weights, planes=planes, min_confidence=min_confidence, device=device)
    if min_confidence is None:
        min_confidence = DepthOptions.min_confidence if weights is None else 0.0
    options = DepthOptions(
        sources=sources, near=near, far=far, least_views=least_views,
        max_reprojection=max_reprojection, max_depth_change=max_depth_change,
        min_confidence=min_confidence, format=format, cloud=cloud, mesh=mesh, voxel=voxel,
    )  # fmt: skip
    if mesh:
        require("open3d", "--mesh")
    estimate = _sweep(planes, threads) if weights is None else network_of(weights, device or "cpu")
    size = max_size or (_SWEEP_SIZE if weights is None else _NETWORK_SIZE)
    views = read_posed_images(
        model,
        images,
        max_size=size,
        exclude=exclude or [],
        say=lambda line: typer.echo(line, err=True),
    )
    report = make_depth_maps(
        views, estimate, out, options, say=lambda line: typer.echo(line, err=True),
        progress=not quiet,
    )  # fmt: skip
    if colmap is not None:
        from pyloc_core.depth.colmap_workspace import write_workspace

        made_now = [view for view in views if view.name not in report.skipped]
        write_workspace(colmap, made_now, out, format)
    for line in report_lines(report):
        typer.echo(line)
    made = f"{out}: {len(report.images)} depth maps in {report.seconds:.0f} s"
    made += "" if report.points is None else f", points.ply with {report.points} points"
    made += "" if report.triangles is None else f", mesh.ply with {report.triangles} triangles"
    typer.echo(made)


def _refuse_unused(
    weights: Path | None, *, planes: int | None, min_confidence: float | None, device: str | None
) -> None:
    """Options that the chosen method would drop."""
    if weights is None and device is not None:
        raise ValueError("--device is of the network: it goes with --weights")
    if weights is not None and planes is not None:
        raise ValueError("--planes is of the sweep: the network of --weights has its own")
    if weights is not None and min_confidence is not None:
        raise ValueError("--min-confidence is of the sweep: the network tells no confidence")


def _sweep(planes: int | None, threads: int | None) -> Any:
    from pyloc_core.depth.sweep_stereo import SweepStereo

    return SweepStereo(planes=planes, num_threads=threads)


def network_of(weights: Path, device: str) -> Any:
    """MVSAnywhere of a checkpoint, whichever of the two variants that holds."""
    from pyloc_core._extras import require

    require("torch", "--weights")
    from pyloc_core.models import create
    from pyloc_core.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(weights)
    hero = any("cost_volume.mlp." in name for name in checkpoint.state)
    network = create("mvsanywhere_hero" if hero else "mvsanywhere_dot")
    return NetworkDepth(network.load_official(checkpoint).to(device))


class NetworkDepth:
    """A network with `predict`, such as MVSAnywhere, as an estimator of the pipeline."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(
        self, reference: Any, sources: Sequence[Any], near: float, far: float
    ) -> tuple[Any, Any]:
        """Depth (H, W), 0 in the sky; the network tells no confidence, so it is 1 where there is depth.

        Sources of several sizes are continued to the right and below by their last column and row, which
        leaves their intrinsics as they are.
        """
        import numpy as np

        from pyloc_core.depth.posed_images import poses_from

        height, width = (max(source.size[k] for source in sources) for k in (0, 1))
        pictures = [
            np.pad(
                source.image,
                ((0, height - source.size[0]), (0, width - source.size[1]), (0, 0)),
                mode="edge",
            )
            for source in sources
        ]
        poses = poses_from(reference, sources)
        matrices = np.stack([source.camera.K for source in sources])
        prediction = self.network.predict(
            reference.image, pictures, reference.camera.K, matrices, poses, depth_range=(near, far)
        )
        found = prediction.depth_map()
        return found, (found > 0).astype(np.float32)


def report_lines(report: Any) -> Sequence[str]:
    """A table of a `DepthReport`: coverage and errors at the model's points, before and after the check."""
    width = max((len(image.name) for image in report.images), default=5)
    head = f"{'image':<{width}}  pixels   kept | points  median    <3% |   kept  median    <3% |      s"
    lines = [head]
    for image in report.images:
        before, after = image.before, image.after
        lines.append(
            f"{image.name:<{width}}  {_percent(image.estimated)} {_percent(image.kept)} | "
            f"{before.points:6d} {_percent(before.median, 3)} {_percent(before.within_3)} | "
            f"{_percent(after.covered)} {_percent(after.median, 3)} {_percent(after.within_3)} | "
            f"{image.seconds:6.1f}"
        )
    return lines


def _percent(share: float, digits: int = 1) -> str:
    """Seven or eight columns; a dash where there is nothing to compare."""
    text = f"{100 * share:.{digits}f}%" if share == share else "-"
    return f"{text:>{6 + (digits > 1)}}"
