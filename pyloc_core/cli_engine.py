# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands that work through a list share: engine, journal, progress, going on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

ENGINES = ("local", "ray")
_FAILURES_SHOWN = 20

EngineName = Annotated[
    str, typer.Option("--engine", help="local: this process; ray: Ray actors, here or elsewhere.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Default: 1 local, as many as there is room for on Ray."),
]
Gpus = Annotated[
    float, typer.Option("--gpus", min=0, help="GPUs per Ray worker; a fraction shares one.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Of a Ray cluster: auto, host:port; default: none.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="There must be an interrupted run to go on with.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


class NothingLeft(Exception):
    """The results are there already, of the same run."""


@contextmanager
def work(
    job: Any,
    queries: Sequence[Any],
    out: Path,
    fingerprint: Any,
    *,
    engine: str,
    workers: int | None,
    threads: int | None,
    gpus: float,
    address: str | None,
    lasting: bool,
    resume: bool,
    quiet: bool,
    finished: Callable[[Path], str | None],
    line: Callable[[dict[str, Any]], str] | None = None,
) -> Iterator[Any]:
    """Have an engine answer all queries; gives the store that holds the answers.

    With `lasting` they are kept in a journal beside `out` until the block, which writes `out`, has
    ended; a journal of the same run is gone on with. Raises ValueError for a journal of another run
    and, with `resume`, where there is nothing to go on with; NothingLeft when `out` is complete.
    """
    from pyloc_core.localization.engine import work_through
    from pyloc_core.localization.journal import Journal, MemoryStore, Store

    chosen = choose_engine(engine, workers, threads, gpus, address)
    path = out.with_name(out.name + ".journal")
    if resume:
        _check_resume(out, path, fingerprint, lasting, finished)
    with chosen as ready:
        journal = Journal(path, fingerprint, len(queries)) if lasting else None
        store: Store = MemoryStore() if journal is None else journal
        try:
            if journal is not None and (journal.resumed or journal.damaged):
                note = f", {journal.damaged} damaged bytes left out" if journal.damaged else ""
                typer.echo(f"{path}: {journal.resumed} of {len(queries)} are done{note}", err=True)
            with _progress(len(queries), len(store.answered), quiet, line) as report:
                work_through(job, queries, ready, store, report)
            yield store
        except BaseException:
            if journal is not None:
                if journal.answered:
                    kept = f"{len(journal.answered)} of {len(queries)} answers are kept in {path}"
                    typer.echo(f"{kept}: the same command goes on", err=True)
                    journal.close()
                else:
                    journal.discard()
            raise
        if journal is not None:
            journal.discard()


def choose_engine(
    name: str, workers: int | None, threads: int | None, gpus: float, address: str | None
) -> AbstractContextManager[Any]:
    """The engine of a name. ValueError for an unknown one, or for options that are Ray's."""
    if name == "ray":
        from pyloc_core.integrations.ray import RayEngine

        return RayEngine(workers, threads or 1, num_gpus=gpus, address=address)
    if name != "local":
        close = difflib.get_close_matches(name, ENGINES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(ENGINES)}"
        raise ValueError(f"there is no engine {name!r}; {hint}")
    if address is not None or gpus:
        raise ValueError("--address and --gpus are for --engine ray")
    from pyloc_core.localization.engine import LocalEngine, limit_threads

    local = LocalEngine(workers or 1, threads)
    if local.num_threads is not None:
        limit_threads(local.num_threads)
    return nullcontext(local)


def _check_resume(
    out: Path,
    journal: Path,
    fingerprint: Any,
    lasting: bool,
    finished: Callable[[Path], str | None],
) -> None:
    if not lasting:
        raise ValueError(f"--resume is for results that keep a journal, not for {out.suffix}")
    if journal.exists():
        return
    run = finished(out)
    if run is None:
        raise ValueError(f"nothing to resume: neither {journal} nor {out} is there")
    if run != fingerprint.run:
        raise ValueError(f"{out} holds the results of another run, and no {journal.name} is there")
    raise NothingLeft(f"{out} is complete")


@contextmanager
def _progress(
    total: int, done: int, quiet: bool, line: Callable[[dict[str, Any]], str] | None
) -> Iterator[Callable[[Sequence[Any]], None]]:
    """A bar with rates, or a line per answer; failures are told as they happen, the first ones."""
    from pyloc_core._extras import require

    if line is not None:

        def tell(answers: Sequence[Any]) -> None:
            for answer in answers:
                typer.echo(line(answer.record), err=not answer.success)

        yield tell
        return
    tqdm = require("tqdm", "the progress bar").tqdm
    failed = 0
    with tqdm(total=total, initial=done, unit="photo", disable=quiet, smoothing=0.1) as bar:

        def report(answers: Sequence[Any]) -> None:
            nonlocal failed
            for answer in answers:
                if not answer.success:
                    failed += 1
                    if failed <= _FAILURES_SHOWN:
                        record = answer.record
                        reason = record.get("reason") or record["error"]
                        tqdm.write(f"{record['image']}: {reason}", file=_Stderr)
                    if failed == _FAILURES_SHOWN + 1:
                        tqdm.write("more failures are told in the results alone", file=_Stderr)
            bar.set_postfix(failed=failed, refresh=False)
            bar.update(len(answers))

        yield report


class _Stderr:
    """What tqdm.write needs of a file, on standard error."""

    @staticmethod
    def write(text: str) -> None:
        typer.echo(text, err=True, nl=False)
