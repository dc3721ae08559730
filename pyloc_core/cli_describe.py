# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The commands `pyloc-core describe` and `pyloc-core build-index`."""

from __future__ import annotations

import json
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
from pyloc_core.cli_localize import Threads, listed_photos
from pyloc_core.cli_named_values import named_options

_ROWS_AT_ONCE = 4096


def describe(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE...")] = None,
    list_file: Annotated[Path | None, typer.Option("--list", help="Lines 'image'.")] = None,
    model: Annotated[str, typer.Option("--model", help="A network, such as salad.")] = "salad",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Its file; without it weights are random.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the network, VALUE as JSON; repeatable."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="descriptors.npz, .safetensors or .parquet.")
    ] = Path("descriptors.npz"),
    batch: Annotated[int, typer.Option("--batch", min=1, help="Photos at a time.")] = 16,
    half: Annotated[bool, typer.Option("--half", help="Half precision in the network.")] = False,
    device: Annotated[str, typer.Option("--device", help="Where the network runs.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="Of random weights.")] = 0,
    threads: Threads = None,
    engine: EngineName = "local",
    workers: Workers = None,
    gpus: Gpus = 0.0,
    address: Address = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Global descriptors of photos; an interrupted run goes on where it stopped."""
    from pyloc_core.localization import descriptors_file
    from pyloc_core.localization.description import DescribeJob
    from pyloc_core.localization.work_list import Fingerprint, fingerprint_of_files, make_queries

    descriptors_file.check_suffix(out)
    queries = make_queries([(name, None) for name, _ in listed_photos(images or [], list_file)])
    file = None if weights is None else str(weights.absolute())
    job = DescribeJob(model, file, named_options(option or []), seed, half, device, batch)
    job.check()
    source = "random" if file is None else fingerprint_of_files(file)
    fingerprint = Fingerprint.of("describe", source, queries, job.identity())
    try:
        with work(
            job, queries, out, fingerprint,
            engine=engine, workers=workers, threads=threads, gpus=gpus, address=address,
            lasting=True, resume=resume, quiet=quiet, finished=descriptors_file.finished_run,
        ) as store:  # fmt: skip
            described = descriptors_file.write_descriptors(
                out, store, len(queries), fingerprint.run, job.identity() | {"weights": source}
            )
    except NothingLeft as complete:
        typer.echo(f"{complete}: nothing is left to do", err=True)
        described, _ = descriptors_file.read_descriptors(out)
    done = len(described.images)
    typer.echo(f"{out}: {done} of {len(queries)} photos described, {described.dimension} values")
    if weights is None:
        typer.echo("the weights are random: these descriptors serve tests alone")
    if done < len(queries):
        raise typer.Exit(1)


def build_index(
    descriptors: Annotated[list[Path], typer.Argument(help="Files of `describe`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the index to.")],
    kind: Annotated[str, typer.Option("--kind", help="flat (exact) or ivf_pq.")] = "flat",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of IndexOptions, as probes=32; repeatable."),
    ] = None,
    threads: Threads = None,
) -> None:
    """An index of descriptors, entries named by their images; a name that comes again is left out."""
    from pyloc_core.localization.descriptors_file import read_descriptors
    from pyloc_core.retrieval import Index

    files = [read_descriptors(path) for path in descriptors]
    filled = [(path, *file) for path, file in zip(descriptors, files) if len(file[1])]
    if not filled:
        raise ValueError(f"{', '.join(map(str, descriptors))}: no photo is described there")
    first = filled[0][1]
    for path, described, _ in filled[1:]:
        if described.model != first.model or described.dimension != first.dimension:
            raise ValueError(f"{path} holds descriptors of another network than {filled[0][0]}")
    try:
        index = Index(first.dimension, kind=kind, **named_options(option or []))
    except TypeError as error:
        raise ValueError(str(error)) from None
    if kind != "flat":
        _learn(index, [vectors for _, _, vectors in filled], threads)
    seen: set[str] = set()
    repeated = 0
    for _, described, vectors in filled:
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            names = described.images[start : start + _ROWS_AT_ONCE]
            rows = []
            for row, name in enumerate(names):
                if name not in seen:
                    seen.add(name)
                    rows.append(row)
            repeated += len(names) - len(rows)
            index.add(vectors[start:][rows], [names[r] for r in rows], num_threads=threads)
    index.save(out, source=json.dumps(first.model, sort_keys=True))
    left_out = f"; {repeated} names came again and are left out" if repeated else ""
    typer.echo(f"{out}: {len(index)} entries of {index.dimension} values{left_out}")


def _learn(index: Any, parts: list[Any], threads: int | None) -> None:
    """Train on rows that are drawn evenly from all files."""
    import numpy as np

    total = sum(len(part) for part in parts)
    step = max(1, -(-total // index.options.training_vectors))
    index.train(np.concatenate([np.asarray(part[::step]) for part in parts]), num_threads=threads)
