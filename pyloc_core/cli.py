# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command line `pyloc-core`. Heavy modules are imported by the command that needs them.

Exit codes: 0 done; 1 ran, but a photo was not localized; 2 the input does not fit (one line says why).
PYLOC_TRACEBACK=1 shows where an error came from.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ImportError:
    print("error: the command line needs typer: pip install 'pyloc_core[all]'", file=sys.stderr)
    raise SystemExit(2) from None

from pyloc_core._extras import MissingExtra
from pyloc_core.cli_checkpoint import convert_checkpoint
from pyloc_core.cli_depth import depth
from pyloc_core.cli_depth_evaluation import evaluate_depth
from pyloc_core.cli_describe import build_index, describe
from pyloc_core.cli_localize import localize
from pyloc_core.cli_maps import index_map, merge_maps
from pyloc_core.cli_named_values import named_options
from pyloc_core.cli_neurhal import evaluate_neurhal
from pyloc_core.cli_retrieval import evaluate_retrieval

app = typer.Typer(
    name="pyloc-core",
    help="Find where a photo was taken, against a COLMAP model and its images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Default: all cores.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Methods = Annotated[str | None, typer.Option("--methods", help="Comma separated; default all.")]


def main() -> None:
    """Entry point."""
    app()


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What the user can mend becomes one line on stderr and exit code 2, not a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError, MissingExtra, MemoryError) as error:
            if os.environ.get("PYLOC_TRACEBACK"):
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(2) from None

    return run


app.command("merge-maps")(_one_line_errors(merge_maps))
app.command("index-map")(_one_line_errors(index_map))
app.command("convert-checkpoint")(_one_line_errors(convert_checkpoint))
app.command("depth")(_one_line_errors(depth))
app.command("describe")(_one_line_errors(describe))
app.command("build-index")(_one_line_errors(build_index))
app.command("evaluate-depth")(_one_line_errors(evaluate_depth))
app.command("evaluate-neurhal")(_one_line_errors(evaluate_neurhal))
app.command("evaluate-retrieval")(_one_line_errors(evaluate_retrieval))
app.command("localize")(_one_line_errors(localize))


@app.command("build-map")
@_one_line_errors
def build_map(
    model: Annotated[Path, typer.Argument(help="Folder of a COLMAP model.")],
    images: Annotated[Path, typer.Argument(help="Folder of the model's images.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the map to.")],
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Image to leave out; repeatable.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="What finds nearby images, such as salad; default: VLAD."),
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="File of the network.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the network; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where the network runs.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Make a map of a COLMAP model: its points with descriptors from its images."""
    from pyloc_core.localization.colmap_model import read_model
    from pyloc_core.localization.description import DescribeJob

    whole = None
    if network is not None:
        file = None if weights is None else str(weights)
        job = DescribeJob(network, file, named_options(option or []), device=device)
        job.check()
        whole = job.network()
    elif weights is not None or option:
        raise ValueError("--weights and --option are those of a --network")
    reconstruction = read_model(model, images, exclude or [])
    from pyloc_core.localization import Map

    built = Map.build(reconstruction, images, global_descriptor=whole, progress=not quiet)
    built.save(out)
    typer.echo(f"{out}: {len(built)} points, {len(built.image_names)} images")


@app.command()
@_one_line_errors
def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Folder with images/, loo/, cameras.json.")],
    methods: Methods = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    queries: Annotated[
        str | None, typer.Option("--queries", help="Comma separated file names; default all.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Leave-one-out localization of every photo of a folder, method against method."""
    from pyloc_core.localization import METHODS, format_table
    from pyloc_core.localization import evaluate as evaluate_folder

    chosen = tuple(name.strip() for name in methods.split(",")) if methods else METHODS
    rows = evaluate_folder(
        data,
        chosen,
        queries=[name.strip() for name in queries.split(",")] if queries else None,
        seed=seed,
        num_threads=threads,
        progress=not quiet,
    )
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    typer.echo(format_table(rows))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
@_one_line_errors
def train(context: typer.Context) -> None:
    """Train a dense descriptor, or with `train places` a network for place recognition.

    `pyloc-core train --help`, `pyloc-core train places --help` and docs/training.md list the options.
    """
    from pyloc_core._extras import require

    require("torch", "training")
    from pyloc_core.training.__main__ import main as run_training

    code = run_training(context.args)
    if code:
        raise typer.Exit(code)


@app.command()
@_one_line_errors
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder as for evaluate; default: own scene.")
    ] = None,
    query: Annotated[str | None, typer.Option("--query", help="Photo to leave out.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for all output.")] = Path(
        "demo_output"
    ),
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Build a map, localize a photo that is not in it, print pose and error, draw a picture."""
    from pyloc_core.localization.demo import run_demo

    result = run_demo(data, query=query, out=out, seed=seed, num_threads=threads, say=typer.echo)
    if not result.estimate.success:
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def bench(
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Per measurement.")] = 0.5,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Time the operators on this machine, beside what one would write in NumPy."""
    from pyloc_core.localization.operator_times import format_times, measure

    rows = measure(seconds)
    typer.echo(format_times(rows))
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(rows, indent=1) + "\n")


@app.command()
@_one_line_errors
def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What this build is: version, compiler, instruction set, operators, optional packages."""
    from importlib.metadata import PackageNotFoundError, version

    from pyloc_core import build_info
    from pyloc_core._extras import _EXTRAS

    content: dict[str, Any] = dict(build_info())
    packages = {}
    for package, extra in _EXTRAS.values():
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = f"missing (pyloc_core[{extra}])"
    content["packages"] = packages
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    for key, value in content.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, entry in value.items():
                text = entry if isinstance(entry, str) else ", ".join(map(str, entry))
                typer.echo(f"  {name:<22} {text}")
        else:
            typer.echo(f"{key + ':':<24} {value}")


if __name__ == "__main__":
    main()
