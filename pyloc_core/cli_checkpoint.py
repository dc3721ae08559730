# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command `pyloc-core convert-checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File of any published kind.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors")],
    model: Annotated[
        str | None, typer.Option("--model", help="Check that the weights are this model's.")
    ] = None,
    inert: Annotated[
        list[str] | None,
        typer.Option("--inert", help="Global that the file may call; recorded, never run."),
    ] = None,
) -> None:
    """Rewrite a published checkpoint as safetensors, hyper-parameters in its metadata.

    Nothing that the file contains is executed. Licences stay what they are: see docs/models.md.
    """
    from pyloc_core._extras import require

    require("torch", "convert-checkpoint")
    from pyloc_core.models.convert import convert

    done = convert(source, out, model=model, inert=inert or ())
    typer.echo(f"{out}: {done.tensors} tensors, {done.values} values")
    if done.kept:
        typer.echo(f"kept in the metadata: {', '.join(done.kept)}")
    if done.dropped:
        typer.echo(f"left out: {', '.join(done.dropped)}")
    if done.leftovers:
        typer.echo(f"classes that were not imported: {', '.join(done.leftovers)}")
