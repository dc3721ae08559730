# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""An engine on Ray Data: a list of photos on many machines, an actor per worker.

Every machine must see the map (or the weights) and the photos under the same paths. Each actor
starts its job once, and memory mapping shares the map's pages among the actors of a machine.

An actor that dies comes back where there is room; what it was working on is not tried again by Ray,
where one photo that takes its worker down, or a machine that does not come back, would hold up
everything, but by `work_through`, which knows what is missing.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import MissingExtra, require
from pyloc_core.localization.engine import Job, WorkersLost, limit_threads
from pyloc_core.localization.work_list import Answer, Query

# More blocks than this and Ray's bookkeeping counts; a worker that dies loses its block.
_MOST_BLOCKS = 4096
_KNOCK_SECONDS = 10.0
_STOP = -1  # index of an answer that is an error of the job as a whole
# What Ray would print or send if it were not asked.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayEngine:
    """Workers as Ray actors, on this machine or on a cluster.

    Args:
        workers: actors; None for as many as the cluster's CPUs (or GPUs) allow.
        num_threads: native threads and CPUs of each.
        num_gpus: GPUs of each; a fraction shares one.
        address: of a running cluster ("auto", "host:port"); None starts Ray here, unless the process
            has done so, or the environment variable RAY_ADDRESS names one.
        object_store_memory: bytes, where Ray is started here.

    Raises MissingExtra without Ray, ValueError when the cluster cannot be reached.
    """

    def __init__(
        self,
        workers: int | None = None,
        num_threads: int = 1,
        *,
        num_gpus: float = 0,
        address: str | None = None,
        object_store_memory: int | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if not num_gpus >= 0:
            raise ValueError(f"num_gpus must not be negative, got {num_gpus}")
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self._ray = require("ray", "the engine ray")
        self._data = require("ray.data", "the engine ray")
        self.workers, self.num_threads, self.num_gpus = workers, max(1, num_threads), num_gpus
        self._address, self._store = address, object_store_memory
        self._started = False

    def __enter__(self) -> RayEngine:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave Ray as it was found."""
        if self._started:
            self._ray.shutdown()
            self._started = False

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        local = self._address is None and not os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"include_dashboard": False} if local else {}
        if local and self._store is not None:
            options["object_store_memory"] = self._store
        if local and self.workers is not None:
            options["num_cpus"] = max(os.cpu_count() or 1, self.workers * self.num_threads)
        try:
            _knock(self._address)
            self._ray.init(
                self._address, log_to_driver=False, logging_level=logging.WARNING, **options
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"cannot reach Ray at {self._address or 'this machine'}: {error}"
            ) from None
        self._started = True

    def available_workers(self) -> int:
        """How many workers the cluster has room for now, at least one."""
        self._connect()
        total = self._ray.cluster_resources()
        room = total.get("CPU", 1) / self.num_threads
        if self.num_gpus > 0:
            room = min(room, total.get("GPU", 0) / self.num_gpus)
        wanted = room if self.workers is None else min(room, self.workers)
        return max(1, int(wanted))

    def run(self, job: Job, queries: Sequence[Query], batch_size: int) -> Iterator[list[Answer]]:
        """Answers as they come, without those that were lost with a worker; see `Engine`."""
        errors = self._ray.exceptions
        try:
            for batch in self._dataset(job, queries, batch_size).iter_batches(
                batch_size=None, batch_format="numpy"
            ):
                if batch:
                    yield _answers(batch)
        except (errors.RayError, *_system_errors(self._data)) as error:
            missing = _cause(error)
            if missing is not None:
                raise missing from None
            lines = str(error).strip().splitlines()
            raise WorkersLost(lines[-1] if lines else type(error).__name__) from error

    def _dataset(self, job: Job, queries: Sequence[Query], batch_size: int) -> Any:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # lost blocks are no errors here
        blocks = min(-(-len(queries) // batch_size), _MOST_BLOCKS)
        items = [{"index": query.index, "query": query.to_json()} for query in queries]
        dataset = self._data.from_items(items, override_num_blocks=blocks)
        dataset.context.max_errored_blocks = -1  # what is missing is noticed by work_through
        dataset.context.enable_progress_bars = False
        pool = self._data.ActorPoolStrategy(
            size=min(self.available_workers(), blocks), max_tasks_in_flight_per_actor=2
        )
        with warnings.catch_warnings():
            # Ray 2.60 has no other way to say how often what is tried again, and warns about this one.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            return dataset.map_batches(
                _Actor, fn_constructor_args=(job, self.num_threads), batch_size=batch_size,
                batch_format="numpy", compute=pool, num_cpus=self.num_threads,
                num_gpus=self.num_gpus or None, max_restarts=-1, max_task_retries=0,
            )  # fmt: skip


class _Actor:
    """A worker: the job started once, then batches of columns in and out."""

    def __init__(self, job: Job, num_threads: int) -> None:
        self.work = job.start(num_threads)
        limit_threads(num_threads)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        try:
            answers = self.work([Query.from_json(text) for text in batch["query"]])
        except Exception as error:  # as an error it would count as one more worker that died
            told = {"missing": isinstance(error, ImportError), "error": f"{error}"}
            answers = [Answer(_STOP, told | {"type": type(error).__name__})]
        vectors = [b"" if a.descriptor is None else a.descriptor.tobytes() for a in answers]
        return {
            "index": np.array([answer.index for answer in answers], np.int64),
            "record": np.array([json.dumps(answer.record) for answer in answers], object),
            "descriptor": np.array(vectors, object),
        }


def _knock(address: str | None) -> None:
    """OSError unless something listens at host:port: Ray itself waits for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()


def _system_errors(data: Any) -> tuple[type[BaseException], ...]:
    """What Ray Data raises beside Ray's own errors."""
    known = getattr(data.exceptions, "SystemException", None)
    return () if known is None else (known,)


def _answers(batch: dict[str, npt.NDArray[Any]]) -> list[Answer]:
    """Raises what stopped the job in a worker: MissingExtra for a package, RuntimeError for all else."""
    for index, text in zip(batch["index"], batch["record"]):
        if index == _STOP:
            told = json.loads(text)
            if told["missing"]:
                raise MissingExtra(told["error"])
            raise RuntimeError(f"in a worker: {told['type']}: {told['error']}")
    return [
        Answer(int(index), json.loads(text), np.frombuffer(vector, np.float32) if vector else None)
        for index, text, vector in zip(batch["index"], batch["record"], batch["descriptor"])
    ]


def _cause(error: BaseException) -> Exception | None:
    """The error of the job itself under Ray's: a map that this worker cannot read, a missing package."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (ValueError, ImportError)):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
