# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The commands `pyloc-core merge-maps` and `index-map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge_maps(
    maps: Annotated[list[Path], typer.Argument(metavar="MAP...", help="Folders of build-map.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the map to.")],
    names: Annotated[
        str | None,
        typer.Option("--names", help="Of the scenes, comma separated; default: folders'."),
    ] = None,
) -> None:
    """Make one map of several, each a scene of its own; poses then name the scene they are in."""
    from pyloc_core.localization import Map

    called = (
        [name.strip() for name in names.split(",")] if names else [m.resolve().name for m in maps]
    )
    if len(called) != len(maps):
        raise ValueError(f"--names has {len(called)} names for {len(maps)} maps")
    for name in called:
        if called.count(name) > 1:
            raise ValueError(f"two maps are called {name}: give different --names")
    merged = Map.merge({name: Map.load(m, index=False) for name, m in zip(called, maps)})
    merged.save(out)
    typer.echo(
        f"{out}: {len(merged)} points, {len(merged.image_names)} images in {len(merged.scenes)} scenes"
    )


def index_map(
    folder: Annotated[Path, typer.Argument(metavar="MAP", help="Folder of build-map.")],
    kind: Annotated[str, typer.Option("--kind", help="flat (exact), or ivf_pq.")] = "flat",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Default: all cores.")
    ] = None,
) -> None:
    """Write an index of the map's images beside it, which finds the images near a photo faster."""
    from pyloc_core.localization import Map

    loaded = Map.load(folder, index=False).with_index(kind=kind, num_threads=threads)
    assert loaded.index is not None
    loaded.index.save(folder, source=loaded.retrieval_fingerprint())
    typer.echo(f"{folder}: {len(loaded.index)} images indexed ({kind})")
