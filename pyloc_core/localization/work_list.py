# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What an engine works through: queries, their answers, and the fingerprint of a run.

A query is its position in the list: a line that is listed twice is two queries, each answered once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pyloc_core
from pyloc_core.camera import Camera

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class Query:
    """One photo of a list.

    Attributes:
        index: position in the list, from 0.
        image: the photo's name as results show it.
        path: where it lies, absolute, the same on every machine that works on the list.
        camera: as stated for this photo, None to look elsewhere.
        prior: 3 x 4 cam_from_world as nested lists, or None.
    """

    index: int
    image: str
    path: str
    camera: Camera | None = None
    prior: Any = None

    def to_json(self) -> str:
        """As text, to be sent to a worker."""
        camera = None if self.camera is None else self.camera.to_dict()
        content = {"index": self.index, "image": self.image, "path": self.path, "camera": camera}
        return json.dumps({**content, "prior": self.prior})

    @classmethod
    def from_json(cls, text: str) -> Query:
        content = json.loads(text)
        if content["camera"] is not None:
            content["camera"] = Camera.from_dict(content["camera"])
        return cls(**content)


@dataclass(frozen=True)
class Answer:
    """The record of a query (plain values, "error" None or why it could not be worked on), and the
    (D,) float32 descriptor where the job makes one."""

    index: int
    record: dict[str, Any]
    descriptor: npt.NDArray[np.float32] | None = None

    @property
    def success(self) -> bool:
        return bool(self.record["success"])


def make_queries(
    photos: Sequence[tuple[str | Path, Camera | None]],
    priors: Sequence[Any] | None = None,
) -> list[Query]:
    """Queries of (name, camera) pairs, in their order; `priors` holds None or a pose for each."""
    return [
        Query(
            index,
            str(name),
            str(Path(name).absolute()),
            camera,
            None if priors is None or priors[index] is None else np.asarray(priors[index]).tolist(),
        )
        for index, (name, camera) in enumerate(photos)
    ]


@dataclass(frozen=True)
class Fingerprint:
    """What decides the answers of a run: kind of job, version of the program, input, list, options.

    Neither the engine nor the number of workers is in it: they do not change an answer.
    """

    kind: str
    parts: dict[str, str]

    @classmethod
    def of(cls, kind: str, source: str, queries: Sequence[Query], options: Any) -> Fingerprint:
        """`source` is `fingerprint_of_files` of the map or the weights, `options` plain values."""
        listed = hashlib.sha256()
        for query in queries:
            stated = None if query.camera is None else query.camera.to_dict()
            listed.update(json.dumps([query.path, stated, query.prior]).encode() + b"\n")
        text = json.dumps(options, sort_keys=True)
        return cls(
            kind,
            {
                "program version": pyloc_core.__version__,
                "map" if kind == "localize" else "model": source,
                "list": listed.hexdigest(),
                "options": hashlib.sha256(text.encode()).hexdigest(),
            },
        )

    @property
    def run(self) -> str:
        """16 hexadecimal digits that name the run."""
        text = json.dumps([self.kind, self.parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, kind: str, parts: dict[str, str]) -> list[str]:
        """Names of what another run has differently."""
        if kind != self.kind:
            return ["kind of job"]
        return [name for name, value in self.parts.items() if parts.get(name) != value]


def fingerprint_of_files(path: str | Path, names: Sequence[str] | None = None) -> str:
    """Digest of a file or of the files of a folder: names, sizes, and samples of the content.

    Of each file up to 4 MB are read, evenly spread, so that a map of any size takes no time.

    Args:
        names: those of the folder's files that count; None for all.
    """
    root = Path(path)
    files = [root]
    if root.is_dir():
        found = root.rglob("*") if names is None else (root / name for name in names)
        files = sorted(file for file in found if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root) if file != root else ''}\0{size}\0".encode())
        last = max(0, size - _SAMPLE_BYTES)
        starts = sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)})
        with file.open("rb") as stream:
            for start in starts:
                stream.seek(start)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
