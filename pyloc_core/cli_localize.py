# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command `pyloc-core localize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyloc_core.cli_engine import (
    Address,
    EngineName,
    Gpus,
    NothingLeft,
    Quiet,
    Resume,
    Workers,
    work,
)

Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Native threads per worker; default: all.")
]


def localize(
    map_folder: Annotated[Path, typer.Argument(metavar="MAP", help="Folder of build-map.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE...")] = None,
    out: Annotated[
        Path, typer.Option("--out", help="poses.json, .csv or .txt; results.jsonl or .parquet.")
    ] = Path("poses.json"),
    camera: Annotated[
        str | None, typer.Option("--camera", help="'MODEL width height params...' of all photos.")
    ] = None,
    focal: Annotated[
        float | None, typer.Option("--focal", help="Focal length of all photos in pixels.")
    ] = None,
    cameras: Annotated[
        Path | None, typer.Option("--cameras", help="JSON: image name -> model, width, ...")
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="Lines 'image [MODEL width height params...]'.")
    ] = None,
    prior: Annotated[
        Path | None, typer.Option("--prior", help="JSON with poses, such as an earlier --out.")
    ] = None,
    scene: Annotated[
        str | None, typer.Option("--scene", help="Look in this scene of a merged map alone.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Folder for a picture of each photo.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Of the network that the map was built with.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where that network runs.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
    threads: Threads = None,
    engine: EngineName = "local",
    workers: Workers = None,
    gpus: Gpus = 0.0,
    address: Address = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Localize photos. The camera comes from the options, the map, or EXIF, in this order.

    Results as .jsonl or .parquet are for long lists: an interrupted run goes on where it stopped.
    """
    from pyloc_core.localization import results_file
    from pyloc_core.localization.batch import CameraSource, LocalizeJob
    from pyloc_core.localization.map_file import FILES
    from pyloc_core.localization.photo_camera import lookup, read_priors
    from pyloc_core.localization.poses_file import SUFFIXES, write_poses
    from pyloc_core.localization.work_list import Fingerprint, fingerprint_of_files, make_queries

    lasting = results_file.is_results(out)
    if not lasting and out.suffix.lower() not in SUFFIXES:
        known = ", ".join((*SUFFIXES, *results_file.SUFFIXES))
        raise ValueError(f"--out must end in {known}, got {out}")
    photos = listed_photos(images or [], list_file)
    source = CameraSource.from_options(camera=camera, focal=focal, cameras=cameras)
    priors = {} if prior is None else read_priors(prior)
    queries = make_queries(photos, [lookup(priors, name) for name, _ in photos])
    folder = str(map_folder.absolute())
    pictures, network = (None if p is None else str(p.absolute()) for p in (plot, weights))
    job = LocalizeJob(folder, source, seed, pictures, network, device, scene=scene)
    job.check()
    # Of the map's own files: results and their journal may lie in its folder.
    source_map = fingerprint_of_files(folder, FILES)
    fingerprint = Fingerprint.of("localize", source_map, queries, job.options())
    try:
        with work(
            job, queries, out, fingerprint,
            engine=engine, workers=workers, threads=threads, gpus=gpus, address=address,
            lasting=lasting, resume=resume, quiet=quiet, line=None if lasting else _line,
            finished=results_file.finished_run,
        ) as store:  # fmt: skip
            entries = (store.read(query.index).record for query in queries)
            if lasting:
                results_file.write_results(out, entries, fingerprint.run)
            else:
                write_poses(out, list(entries))
            done = sum(store.read(query.index).success for query in queries)
    except NothingLeft as complete:
        typer.echo(f"{complete}: nothing is left to do", err=True)
        done = sum(record["success"] for record in results_file.read_results(out))
    typer.echo(f"{out}: {done} of {len(queries)} photos localized")
    if done < len(queries):
        raise typer.Exit(1)


def listed_photos(images: list[Path], list_file: Path | None) -> list[tuple[Path, Any]]:
    """(path, camera or None) of the photos that are named, then of those on a list.

    A name on the list is relative to this folder, or else to the list's. ValueError without any.
    """
    from pyloc_core.localization.photo_camera import read_list

    listed = read_list(list_file) if list_file else []
    base = list_file.parent if list_file else Path()
    photos: list[tuple[Path, Any]] = [(path, None) for path in images]
    photos += [(path if (path := Path(name)).exists() else base / name, c) for name, c in listed]
    if not photos:
        if list_file is not None:
            raise ValueError(f"{list_file} names no photo")
        raise ValueError("no photos given: name images, or a file of names with --list")
    return photos


def _line(entry: dict[str, Any]) -> str:
    if not entry["success"]:
        return f"{entry['image']}: not localized: {entry['reason']}"
    x, y, z = entry["center"]
    spread = ""
    if entry["rotation_std_deg"] is not None:
        spread = f"  (one sigma {entry['rotation_std_deg']:.3f} deg, {entry['center_std']:.4g})"
    return (
        f"{entry['image']}: camera at {x:.5g} {y:.5g} {z:.5g}{spread}, "
        f"{entry['num_consistent']} of {entry['num_points']} points, {entry['seconds']:.2f} s"
    )
