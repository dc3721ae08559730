# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The journal of a run: answers in the order in which they come, safe against a kill at any moment.

The file is a sequence of frames, each with a checksum of its own: first the run's fingerprint, then a
frame per answer. A frame that was cut off or damaged is skipped when the journal is opened again, so
only its query is worked on again. Frame: magic, index (-1 for the fingerprint), lengths of the JSON
text and of the bytes behind it (a float32 descriptor), CRC-32 of all of it.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from pyloc_core.localization.work_list import Answer, Fingerprint

FORMAT, VERSION = "pyloc_core journal", 1
_MAGIC = b"\xf1PJ1"
_HEAD = struct.Struct("<qII")  # index, bytes of text, bytes behind it
_SUM = struct.Struct("<I")
_LEAD = len(_MAGIC) + _HEAD.size + _SUM.size


class Store(Protocol):
    """Where answers are kept until all are there."""

    answered: Any  # a container of indices

    def append(self, answers: Sequence[Answer]) -> None: ...

    def read(self, index: int) -> Answer: ...


class MemoryStore:
    """Answers in memory, for lists that are short enough to begin again."""

    def __init__(self) -> None:
        self.answered: dict[int, Answer] = {}

    def append(self, answers: Sequence[Answer]) -> None:
        self.answered.update((answer.index, answer) for answer in answers)

    def read(self, index: int) -> Answer:
        return self.answered[index]


class Journal:
    """Answers on disk. Opens what is there, or begins; one process at a time.

    Args:
        path: the file.
        fingerprint: of the run; a journal of another run is refused.
        count: number of queries.

    Attributes:
        answered: index -> position, and lengths of text and bytes in the file.
        resumed: number of answers that were there; `damaged`: bytes that were skipped.

    Raises ValueError when the file belongs to another run, another process, or is no journal.
    """

    def __init__(self, path: str | Path, fingerprint: Fingerprint, count: int) -> None:
        self.path = Path(path)
        self.answered: dict[int, tuple[int, int, int]] = {}
        self.damaged = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("a+b")
        try:
            _lock(self._file, self.path)
            self._open(fingerprint, count)
        except BaseException:
            self._file.close()
            raise
        self.resumed = len(self.answered)

    def _open(self, fingerprint: Fingerprint, count: int) -> None:
        described = None
        for index, start, lengths in self._frames():
            if index == -1 and described is None:
                described = self._text(start, lengths[0])
                self._check(described, fingerprint)
            elif described is not None and 0 <= index < count:
                self.answered.setdefault(index, (start, *lengths))
        if described is None:
            self._file.seek(0)
            head = self._file.read(len(_MAGIC))
            size = self._file.seek(0, os.SEEK_END)
            if not _MAGIC.startswith(head) or size > _LEAD + (1 << 16):
                raise ValueError(
                    f"{self.path} is no journal of this program, or damaged: delete it"
                )
            self._file.truncate(0)  # nothing, or killed while the first frame was written
            self.damaged = 0
            content = {"format": FORMAT, "version": VERSION, "kind": fingerprint.kind}
            self._write([_frame(-1, json.dumps({**content, "parts": fingerprint.parts}), b"")])

    def _check(self, described: dict[str, Any], fingerprint: Fingerprint) -> None:
        if described.get("format") != FORMAT or described.get("version") != VERSION:
            raise ValueError(f"{self.path} is of another version of this program: delete it")
        other = fingerprint.differences(described["kind"], described["parts"])
        if other:
            raise ValueError(
                f"{self.path} was left by a run that differs in {' and '.join(other)}: delete it, or "
                "write to another file"
            )

    def _frames(self) -> Iterator[tuple[int, int, tuple[int, int]]]:
        """(index, position of the text, lengths) of every sound frame."""
        size = os.fstat(self._file.fileno()).st_size
        if not size:
            return
        data = np.memmap(self._file, np.uint8, mode="r")
        view, at = memoryview(data.data), 0
        while at + _LEAD <= size:
            lengths = _sound(view, at, size)
            if lengths is None:  # damaged: on to the next magic
                following = _find(data, at + 1)
                self.damaged += following - at
                at = following
                continue
            index, text, behind = lengths
            yield index, at + _LEAD, (text, behind)
            at += _LEAD + text + behind
        self.damaged += max(0, size - at)

    def _text(self, start: int, length: int) -> dict[str, Any]:
        self._file.seek(start)
        return json.loads(self._file.read(length))

    def append(self, answers: Sequence[Answer]) -> None:
        """Write answers; when this returns they are on the disk."""
        frames = []
        for answer in answers:
            vector = answer.descriptor
            behind = b"" if vector is None else np.ascontiguousarray(vector, "<f4").tobytes()
            text = json.dumps(answer.record, allow_nan=False)
            frames.append(_frame(answer.index, text, behind))
        position = self._write(frames)
        for answer, frame in zip(answers, frames):
            _, text_bytes, more = _HEAD.unpack_from(frame, len(_MAGIC))
            self.answered[answer.index] = (position + _LEAD, text_bytes, more)
            position += len(frame)

    def _write(self, frames: Sequence[bytes]) -> int:
        position = self._file.seek(0, os.SEEK_END)
        self._file.write(b"".join(frames))
        self._file.flush()
        os.fsync(self._file.fileno())
        return position

    def read(self, index: int) -> Answer:
        """The answer of a query."""
        start, text, behind = self.answered[index]
        record = self._text(start, text)
        vector = np.frombuffer(self._file.read(behind), "<f4") if behind else None
        return Answer(index, record, vector)

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Remove the file: the results hold everything now."""
        self.path.unlink(missing_ok=True)
        self.close()


def _frame(index: int, text: str, behind: bytes) -> bytes:
    content = text.encode()
    head = _HEAD.pack(index, len(content), len(behind))
    return _MAGIC + head + _SUM.pack(zlib.crc32(head + content + behind)) + content + behind


def _sound(view: memoryview, at: int, size: int) -> tuple[int, int, int] | None:
    """(index, bytes of text, bytes behind) of the frame at a position, None if it is no sound one."""
    if view[at : at + len(_MAGIC)] != _MAGIC:
        return None
    head = view[at + len(_MAGIC) : at + len(_MAGIC) + _HEAD.size]
    index, text, behind = _HEAD.unpack(head)
    end = at + _LEAD + text + behind
    if end > size:
        return None
    (expected,) = _SUM.unpack(view[at + _LEAD - _SUM.size : at + _LEAD])
    found = zlib.crc32(view[at + _LEAD : end], zlib.crc32(head))
    return (index, text, behind) if found == expected else None


def _find(data: np.memmap[Any, Any], start: int) -> int:
    """Position of the next magic, or the end."""
    step = 1 << 20
    for at in range(start, len(data), step):
        found = data[at : at + step + len(_MAGIC)].tobytes().find(_MAGIC)
        if found >= 0:
            return at + found
    return len(data)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such thing here: two runs at once are the user's affair
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is writing {path}") from None
    except OSError:
        with suppress(OSError):  # a file system without locks
            file.flush()
