# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Working through a list: every query once, whatever is lost; the journal; results; going on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyloc_core import Camera
from pyloc_core.localization import results_file
from pyloc_core.localization.engine import LOSSES, LocalEngine, Worker, WorkersLost, work_through
from pyloc_core.localization.journal import Journal, MemoryStore
from pyloc_core.localization.poses_file import pose_entry
from pyloc_core.localization.results_file import read_results, write_results
from pyloc_core.localization.work_list import (
    Answer,
    Fingerprint,
    Query,
    fingerprint_of_files,
    make_queries,
)
from pyloc_core.pose import PoseEstimate

FINGERPRINT = Fingerprint("test", {"map": "a", "list": "b", "options": "c"})


@dataclass
class Squares:
    """A job that is done at once: the square of the index, and a descriptor."""

    batch_size: int = 3

    def start(self, num_threads: int | None) -> Worker:
        return lambda queries: [answer(query.index) for query in queries]

    def failed(self, query: Query, error: str) -> Answer:
        return Answer(query.index, {"success": False, "error": error})


def answer(index: int) -> Answer:
    vector = np.random.default_rng(index).standard_normal(5).astype(np.float32)
    return Answer(index, {"success": True, "value": index**2, "text": "ä\n"}, vector)


def queries(count: int) -> list[Query]:
    return make_queries([(f"{index}.jpg", None) for index in range(count)])


def check_all(store: Any, count: int, but: Sequence[int] = ()) -> None:
    assert sorted(store.answered) == list(range(count))
    for index in set(range(count)) - set(but):
        found, expected = store.read(index), answer(index)
        assert found.record == expected.record
        np.testing.assert_array_equal(found.descriptor, expected.descriptor)


# ---------------------------------------------------------------- engines


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_query_is_answered_once(workers: int) -> None:
    store, heard = MemoryStore(), []
    work_through(
        Squares(), queries(20), LocalEngine(workers), store,
        lambda answers: heard.extend(a.index for a in answers),
    )  # fmt: skip
    assert sorted(heard) == list(range(20))
    check_all(store, 20)


def test_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)

    class Meeting(Squares):
        def start(self, num_threads: int | None) -> Worker:
            worker = super().start(num_threads)
            return lambda batch: (both.wait(), worker(batch))[1]

    store = MemoryStore()
    work_through(Meeting(batch_size=2), queries(4), LocalEngine(2), store)
    check_all(store, 4)


def test_an_error_of_the_job_stops_it_and_keeps_what_is_done() -> None:
    class Breaks(Squares):
        def start(self, num_threads: int | None) -> Worker:
            worker = super().start(num_threads)

            def run(batch: Sequence[Query]) -> list[Answer]:
                if batch[0].index >= 6:
                    raise ImportError("no such package")
                return worker(batch)

            return run

    for workers in (1, 2):
        store = MemoryStore()
        with pytest.raises(ImportError, match="no such package"):
            work_through(Breaks(), queries(12), LocalEngine(workers), store)
        assert set(store.answered) >= {0, 1, 2} and max(store.answered) < 6


def test_what_is_under_way_when_another_thread_fails_is_kept() -> None:
    failed = threading.Event()

    class Breaks(Squares):
        def start(self, num_threads: int | None) -> Worker:
            worker = super().start(num_threads)

            def run(batch: Sequence[Query]) -> list[Answer]:
                if batch[0].index == 3:
                    failed.set()
                    raise ImportError("no such package")
                assert failed.wait(10)
                time.sleep(0.05)
                return worker(batch)

            return run

    store = MemoryStore()
    with pytest.raises(ImportError, match="no such package"):
        work_through(Breaks(), queries(30), LocalEngine(2), store)
    assert set(store.answered) >= {0, 1, 2} and len(store.answered) < 15


class Losing:
    """An engine that loses batches: `lose(indices, round)` says which, or raises."""

    def __init__(self, lose: Callable[[list[int], int], bool]) -> None:
        self.lose, self.round, self.sizes = lose, 0, []

    def run(self, job: Squares, todo: Sequence[Query], batch_size: int) -> Iterator[list[Answer]]:
        worker = job.start(None)
        self.round += 1
        self.sizes.append((len(todo), batch_size))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            if not self.lose([q.index for q in batch], self.round):
                yield worker(batch)


def test_what_is_lost_with_a_worker_is_done_again() -> None:
    engine, store = Losing(lambda batch, turn: turn == 1 and 7 in batch), MemoryStore()
    work_through(Squares(), queries(10), engine, store)
    assert engine.sizes == [(10, 3), (3, 1)]
    check_all(store, 10)


def test_a_query_that_takes_its_worker_down_is_recorded_and_holds_nothing_up() -> None:
    engine, store = Losing(lambda batch, turn: 7 in batch), MemoryStore()
    work_through(Squares(), queries(10), engine, store)
    assert engine.sizes == [(10, 3), (3, 1), *[(1, 1)] * (LOSSES - 1)]
    check_all(store, 10, but=[7])
    assert "worker died 4 times" in store.read(7).record["error"]


def test_lost_workers_are_replaced_while_something_gets_done() -> None:
    def lose(batch: list[int], turn: int) -> bool:
        if turn <= 5 and batch[0] >= 2 * turn:
            raise WorkersLost("the machine is gone")
        return False

    store = MemoryStore()
    work_through(Squares(batch_size=2), queries(14), Losing(lose), store)
    check_all(store, 14)

    def always(batch: list[int], turn: int) -> bool:
        raise WorkersLost("no machine")

    with pytest.raises(ValueError, match="no worker gets anything done: no machine"):
        work_through(Squares(), queries(4), Losing(always), MemoryStore())


def test_an_answer_that_is_heard_twice_is_kept_once(tmp_path: Path) -> None:
    class Stutters:
        def run(self, job: Squares, todo: Sequence[Query], size: int) -> Iterator[list[Answer]]:
            worker = job.start(None)
            yield worker(todo[:4])
            yield worker(todo[2:])
            yield worker(todo)

    journal, heard = Journal(tmp_path / "j", FINGERPRINT, 9), []
    work_through(
        Squares(),
        queries(9),
        Stutters(),
        journal,
        lambda batch: heard.extend(a.index for a in batch),
    )
    assert heard == list(range(9))
    check_all(journal, 9)
    journal.close()
    assert Journal(tmp_path / "j", FINGERPRINT, 9).resumed == 9


def test_engines_refuse_no_workers() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1"):
        LocalEngine(0)


# ---------------------------------------------------------------- journal


def filled(path: Path, count: int) -> list[int]:
    """A journal with answers 0 to count - 1; gives where each ends."""
    journal, ends = Journal(path, FINGERPRINT, count), []
    for index in range(count):
        journal.append([answer(index)])
        ends.append(path.stat().st_size)
    journal.close()
    return ends


def test_a_journal_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "results.jsonl.journal"
    filled(path, 6)
    journal = Journal(path, FINGERPRINT, 10)
    assert (journal.resumed, journal.damaged) == (6, 0)
    work_through(Squares(), queries(10), LocalEngine(), journal)
    check_all(journal, 10)
    journal.discard()
    assert not path.exists()


def test_wherever_a_journal_is_cut_off_the_whole_frames_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "j"
    ends = filled(path, 4)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        journal = Journal(path, FINGERPRINT, 4)
        whole = sum(end <= length for end in ends)
        assert sorted(journal.answered) == list(range(whole)), length
        if length % 7 == 0:  # and it can be written on
            work_through(Squares(), queries(4), LocalEngine(), journal)
            journal.close()
            journal = Journal(path, FINGERPRINT, 4)
            check_all(journal, 4)
        journal.close()


def test_a_damaged_frame_costs_its_own_query_alone(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "j"
    ends = filled(path, 6)
    content = path.read_bytes()
    for _ in range(60):
        at = int(rng.integers(ends[1], ends[4]))
        hurt = bytearray(content)
        hurt[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(hurt)
        journal = Journal(path, FINGERPRINT, 6)
        lost = next(index for index, end in enumerate(ends) if at < end)
        assert sorted(journal.answered) == sorted(set(range(6)) - {lost})
        assert journal.damaged == ends[lost] - ends[lost - 1]
        work_through(Squares(), queries(6), LocalEngine(), journal)
        check_all(journal, 6)
        journal.close()


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    filled(path, 2)
    other = Fingerprint("test", {"map": "x", "list": "b", "options": "y"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="differs in map and options"):
        Journal(path, other, 2)
    with pytest.raises(ValueError, match="differs in kind of job"):
        Journal(path, Fingerprint("describe", FINGERPRINT.parts), 2)
    assert path.read_bytes() == before
    path.write_text("my diary")
    with pytest.raises(ValueError, match="no journal"):
        Journal(path, FINGERPRINT, 2)
    assert path.read_text() == "my diary"


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = Journal(tmp_path / "j", FINGERPRINT, 2)
    with pytest.raises(ValueError, match="another process is writing"):
        Journal(tmp_path / "j", FINGERPRINT, 2)
    first.close()
    Journal(tmp_path / "j", FINGERPRINT, 2).close()


# ---------------------------------------------------------------- queries and fingerprints


def test_queries_survive_the_way_to_a_worker() -> None:
    camera = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.01))
    poses = [None, np.eye(4)[:3] + 0.1]
    for query in make_queries([("a b.jpg", camera), ("ü.jpg", None)], poses):
        assert Query.from_json(query.to_json()) == query
    assert Path(query.path).is_absolute() and query.image == "ü.jpg"


def test_a_fingerprint_tells_what_differs(tmp_path: Path) -> None:
    first = Fingerprint.of("localize", "m", queries(3), {"seed": 0})
    assert first.run == Fingerprint.of("localize", "m", queries(3), {"seed": 0}).run
    changed = {
        "map": Fingerprint.of("localize", "n", queries(3), {"seed": 0}),
        "list": Fingerprint.of("localize", "m", queries(4), {"seed": 0}),
        "options": Fingerprint.of("localize", "m", queries(3), {"seed": 1}),
    }
    for name, other in changed.items():
        assert first.differences("localize", other.parts) == [name] and first.run != other.run


def test_files_are_told_apart_by_a_byte(tmp_path: Path) -> None:
    content = bytearray(np.random.default_rng(3).bytes(200_000))
    (tmp_path / "map.bin").write_bytes(content)
    before = fingerprint_of_files(tmp_path)
    content[123_456] ^= 1
    (tmp_path / "map.bin").write_bytes(content)
    assert fingerprint_of_files(tmp_path) != before
    content[123_456] ^= 1
    (tmp_path / "map.bin").write_bytes(content)
    assert fingerprint_of_files(tmp_path) == before
    (tmp_path / "more").write_bytes(b"")
    assert fingerprint_of_files(tmp_path) != before


# ---------------------------------------------------------------- results


def entries() -> list[dict[str, Any]]:
    camera = Camera("PINHOLE", 640, 480, (500.0, 501.0, 320.0, 240.0))
    rng = np.random.default_rng(5)
    found = PoseEstimate(
        cam_from_world=np.column_stack([np.eye(3), rng.standard_normal(3)]), success=True,
        reason="converged", cost=1.5, gain=8.0, inlier_probability=rng.uniform(size=4),
        covariance=np.diag(rng.uniform(size=6)), iterations=3, timings={"msac": 0.5, "total": 1.0},
        num_usable=4, num_consistent=3,
    )  # fmt: skip
    lost = PoseEstimate.failed("no such image: ü.jpg", 0)
    unknown = PoseEstimate.failed("coarse stage: no consensus", 7, cost=float("inf"))
    return [
        pose_entry("a.jpg", camera, found) | {"query": 0, "error": None},
        pose_entry("ü.jpg", None, lost) | {"query": 1, "error": lost.reason},
        pose_entry("c.jpg", camera, unknown) | {"query": 2, "error": None},
    ]


def test_both_formats_read_back_the_same(tmp_path: Path) -> None:
    write_results(tmp_path / "r.jsonl", entries(), "0123")
    records = list(read_results(tmp_path / "r.jsonl"))
    assert [record["query"] for record in records] == [0, 1, 2]
    assert list(records[0]) == list(results_file.FIELDS)
    assert records[0]["cam_from_world"] == entries()[0]["cam_from_world"]
    assert records[0]["timings"] == {"msac": 0.5, "total": 1.0}
    assert records[1]["cam_from_world"] is None and records[1]["error"] == "no such image: ü.jpg"
    assert records[2]["cost"] is None and records[2]["error"] is None
    pytest.importorskip("pyarrow")
    write_results(tmp_path / "r.parquet", entries(), "0123")
    assert list(read_results(tmp_path / "r.parquet")) == records
    assert not list(tmp_path.glob("*.part"))


def test_results_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_results(path, entries(), "0123")
    before = path.read_text()

    def breaks() -> Iterator[dict[str, Any]]:
        yield entries()[0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_results(path, breaks(), "4567")
    assert path.read_text() == before and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"version": 2}, "version 2; this program reads version 1"),
        ({"camera": None, "gain": "much"}, "gain is str"),
        ({"success": None}, "success is NoneType"),
        ({"colour": "red"}, "unknown fields colour"),
    ],
)
def test_results_of_another_kind_are_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "r.jsonl"
    record = results_file.record_of(entries()[0], "0123") | change
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=says):
        list(read_results(path))


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_results(path, entries(), "0123")
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match="line 3 is cut off"):
        list(read_results(path))
    with pytest.raises(ValueError, match="cannot read"):
        list(read_results(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        write_results(tmp_path / "r.xml", entries(), "0123")
    pytest.importorskip("pyarrow")
    (tmp_path / "r.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(ValueError, match="cannot read"):
        list(read_results(tmp_path / "r.parquet"))
