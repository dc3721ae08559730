# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Working through a list: a job, an engine that runs it, a store that keeps the answers.

A job is plain data that can be sent to a worker; there it is started (a map or a network is loaded)
and answers queries. `LocalEngine` runs it in this process, `pyloc_core.integrations.ray.RayEngine` on
a cluster: the same job, the same answers.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from typing import Protocol

from pyloc_core._build import get_num_threads, set_num_threads
from pyloc_core.localization.journal import Store
from pyloc_core.localization.work_list import Answer, Query

_LOG = logging.getLogger(__name__)
Worker = Callable[[Sequence[Query]], list[Answer]]
# How often a query on its own may be lost with its worker before that is its answer: machines that go
# take others' queries with them.
LOSSES = 3


class Job(Protocol):
    """What is done to each query. Picklable; `start` loads what it needs, once per worker."""

    batch_size: int

    def start(self, num_threads: int | None) -> Worker:
        """The function that answers queries; it may be called from many threads."""
        ...

    def failed(self, query: Query, error: str) -> Answer:
        """The answer of a query that could not be worked on."""
        ...


class WorkersLost(Exception):
    """An engine's workers, or what they had answered, were lost; the rest can be begun again."""


class Engine(Protocol):
    """Answers queries, in any order. May leave out queries whose worker died."""

    def run(self, job: Job, queries: Sequence[Query], batch_size: int) -> Iterator[list[Answer]]:
        """Answers as they come. Raises `WorkersLost` when it has to be called again."""
        ...


class LocalEngine:
    """This process, with threads that share one map; native code runs without the GIL.

    Args:
        workers: Python threads.
        num_threads: native threads of each; None shares the process' threads among them.
    """

    def __init__(self, workers: int = 1, num_threads: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        self.num_threads = num_threads
        if num_threads is None and workers > 1:
            self.num_threads = max(1, get_num_threads() // workers)

    def run(self, job: Job, queries: Sequence[Query], batch_size: int) -> Iterator[list[Answer]]:
        """Answers as they come; see `Engine`."""
        worker = job.start(self.num_threads)
        if self.workers == 1:
            for batch in _batches(queries, batch_size):
                yield worker(batch)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            yield from _in_threads(pool, self.workers, worker, _batches(queries, batch_size))


def _in_threads(
    pool: ThreadPoolExecutor, workers: int, worker: Worker, waiting: Iterator[Sequence[Query]]
) -> Iterator[list[Answer]]:
    """Answers of a pool's threads. After an error nothing is begun, and what is under way is still
    answered before the error is raised."""
    running: set[Future[list[Answer]]] = set()
    failure: BaseException | None = None
    try:
        while True:
            if failure is None:
                for batch in islice(waiting, 2 * workers - len(running)):
                    running.add(pool.submit(worker, batch))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if error is None:
                    yield future.result()
                failure = failure or error
            if failure is not None:
                running = {future for future in running if not future.cancel()}
    finally:
        for future in running:
            future.cancel()
    if failure is not None:
        raise failure


def _batches(queries: Sequence[Query], size: int) -> Iterator[Sequence[Query]]:
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def work_through(
    job: Job,
    queries: Sequence[Query],
    engine: Engine,
    store: Store,
    report: Callable[[Sequence[Answer]], None] | None = None,
) -> None:
    """Answer every query that the store has no answer of; each is kept once.

    What an engine lost with a worker is tried again, one query at a time so that only the one that
    takes its worker down is tried in vain; after `LOSSES` such losses its answer says so.

    Args:
        report: called with the answers that were just stored.

    Raises whatever stops the job as a whole: no map, a missing package, no worker that starts.
    """
    losses: Counter[int] = Counter()
    stuck, alone = 0, False
    while todo := [q for q in queries if q.index not in store.answered]:
        before = len(store.answered)
        try:
            for answers in engine.run(job, todo, 1 if alone else job.batch_size):
                _keep(answers, store, report)
        except WorkersLost as lost:
            stuck = stuck + 1 if len(store.answered) == before else 0
            if stuck > LOSSES:
                raise ValueError(f"no worker gets anything done: {lost}") from lost
            continue
        lost_now = sum(q.index not in store.answered for q in todo)
        if lost_now:
            _LOG.warning("%d queries were lost with their workers and are tried again", lost_now)
        if alone:
            losses.update(q.index for q in todo if q.index not in store.answered)
            reason = f"its worker died {LOSSES + 1} times while working on it"
            given_up = [q for q in todo if losses[q.index] >= LOSSES]
            _keep([job.failed(query, reason) for query in given_up], store, report)
        alone = True


def _keep(
    answers: Sequence[Answer], store: Store, report: Callable[[Sequence[Answer]], None] | None
) -> None:
    """Store what is new, once: a worker that was lost may have been heard all the same."""
    fresh = {a.index: a for a in answers if a.index not in store.answered}
    if fresh:
        store.append(list(fresh.values()))
        if report is not None:
            report(list(fresh.values()))


def limit_threads(count: int) -> None:
    """Hold the libraries of this process to `count` threads; for a process that is a worker's own.

    The threads of OpenCV and of NumPy's BLAS wait busily: left alone they take the processor from other
    workers.
    """
    set_num_threads(count)
    with suppress(ImportError):
        importlib.import_module("threadpoolctl").threadpool_limits(count, user_api="blas")
    with suppress(ImportError):
        importlib.import_module("cv2").setNumThreads(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
