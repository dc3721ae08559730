# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The index of global descriptors: which known images look most like a photo."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core.retrieval import faiss_index
from pyloc_core.retrieval.options import IndexOptions, with_overrides

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
# How far a vector's length may be from 1: bfloat16 rounds it by less.
_UNIT_TOLERANCE = 1e-2
# FAISS sums products in float32 in an order of its own; candidates this much below the k-th best are
# looked at once more in float64.
_MARGIN = 1e-5
_GATHERED = 1 << 23  # float64 values held at once while doing so


class Neighbours(NamedTuple):
    """`similarities` (Q, k) float32 inner products, best first, and `indices` (Q, k) int64 positions in
    the index. Where it holds fewer than k entries: -inf and -1."""

    similarities: Any
    indices: Any


class Index:
    """Unit vectors with names, found by inner product. D dimensions, N entries.

    Exact unless the options say otherwise: the similarity is summed in float64 and rounded to float32,
    equal ones come in order of the entries, and the result depends neither on the number of threads nor
    on how many queries are asked at once. An approximate index (kind="ivf_pq") learns from the first
    vectors it gets, or from those given to `train`.

    Args:
        dimension: D.
        options: `IndexOptions`; single ones can be given by name.

    Raises ValueError or TypeError for options that do not fit, MissingExtra without FAISS.
    """

    def __init__(
        self, dimension: int, *, options: IndexOptions | None = None, **overrides: Any
    ) -> None:
        if isinstance(dimension, bool) or not isinstance(dimension, (int, np.integer)):
            raise TypeError(f"dimension must be an int, got {dimension!r}")
        if dimension < 1:
            raise ValueError(f"dimension must be positive, got {dimension}")
        self.dimension = int(dimension)
        self.options = with_overrides(options, overrides)
        if self.options.kind != "flat":
            self.options.code_size(self.dimension)
        faiss_index.module()
        self._faiss: Any = None  # made when it has something to learn from
        self._mapped: Path | None = None
        self._names: list[str | int] | None = None
        # Entry -> how many were added before it: rises, and stays when others are removed.
        self._serial: Int64 = np.zeros(0, np.int64)
        self._next = 0

    @classmethod
    def build(
        cls,
        descriptors: Any,
        names: Sequence[str | int] | None = None,
        *,
        options: IndexOptions | None = None,
        num_threads: int | None = None,
        **overrides: Any,
    ) -> Index:
        """An index of (N, D) descriptors; arguments as of `add` and the class."""
        array = _arrays.as_array(descriptors, "descriptors", shape=("N", "D"), dtype="float32")
        made = cls(array.shape[1], options=options, **overrides)
        made.add(array.data, names, num_threads=num_threads)
        return made

    def __len__(self) -> int:
        return len(self._serial)

    @property
    def names(self) -> list[str | int]:
        """The N names, in order; without given ones, how many entries were added before."""
        return self._serial.tolist() if self._names is None else list(self._names)

    def train(self, descriptors: Any, *, num_threads: int | None = None) -> None:
        """Learn from (N, D) descriptors without adding them; nothing to do for an exact index.

        Raises ValueError when there are too few of them, or when the index has learned already.
        """
        vectors = self._vectors(descriptors, "descriptors")
        if self.options.kind == "flat":
            return
        if self._faiss is not None:
            raise ValueError("the index has been trained already")
        with faiss_index.threads(num_threads):
            self._faiss = faiss_index.trained(vectors, self.options)

    def add(
        self,
        descriptors: Any,
        names: Sequence[str | int] | None = None,
        *,
        num_threads: int | None = None,
    ) -> None:
        """Append entries.

        Args:
            descriptors: (N, D) unit vectors; rows of zeros (an image that shows nothing) are similar to
                nothing. float16 and bfloat16 are kept as float32.
            names: N different strings or integers that the index does not hold yet; None numbers the
                entries. Named and numbered entries do not mix.

        Raises ValueError or TypeError: another dimension, NaN, vectors of another length than 1, names
        that repeat, too few vectors for an untrained approximate index.
        """
        vectors = self._vectors(descriptors, "descriptors")
        given = self._checked_names(names, len(vectors))
        if not len(vectors):
            return
        self._to_memory()
        with faiss_index.threads(num_threads):
            if self._faiss is None:
                self._faiss = faiss_index.trained(vectors, self.options)
            serial = np.arange(self._next, self._next + len(vectors))
            if self.options.kind == "flat":
                self._faiss.add(vectors)
            else:
                self._faiss.add_with_ids(vectors, serial)
        self._serial = np.concatenate([self._serial, serial])
        self._next += len(vectors)
        if given is not None:
            self._names = [*(self._names or []), *given]

    def remove(self, names: Sequence[str | int]) -> None:
        """Take entries out; the others keep their order. ValueError for a name that is not there."""
        position = {name: i for i, name in enumerate(self.names)}
        for name in names:
            if name not in position:
                close = difflib.get_close_matches(str(name), map(str, position), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"the index has no entry {name!r}{hint}")
        gone = np.unique(np.array([position[name] for name in names], np.int64))
        if not len(gone):
            return
        self._to_memory()
        self._faiss.remove_ids(gone if self.options.kind == "flat" else self._serial[gone])
        keep = np.ones(len(self), bool)
        keep[gone] = False
        if self._names is not None:
            self._names = [name for name, k in zip(self._names, keep) if k]
        self._serial = self._serial[keep]

    def search(self, queries: Any, k: int, *, num_threads: int | None = None) -> Neighbours:
        """The k entries most similar to each of (Q, D) queries.

        Returns:
            Neighbours, of the kind (NumPy or torch) of `queries`.

        Raises ValueError or TypeError: another dimension, NaN, vectors of another length than 1, k below 1.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"k must be an int, got {k!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        source = _arrays.as_array(queries, "queries", dtype="float32")
        vectors = self._vectors(source.data, "queries")
        similar = np.full((len(vectors), k), -np.inf, np.float32)
        at = np.full((len(vectors), k), -1, np.int64)
        found = min(int(k), len(self))
        if found and len(vectors):
            with faiss_index.threads(num_threads):
                run = self._exact if self.options.kind == "flat" else self._approximate
                similar[:, :found], at[:, :found] = run(vectors, found)
        return Neighbours(_arrays.like(similar, source), _arrays.like(at, source))

    def _exact(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        similar = np.empty((len(queries), k), np.float32)
        at = np.empty((len(queries), k), np.int64)
        todo, asked = np.arange(len(queries)), min(k + 8, len(self))
        while len(todo):
            rough, rows = self._faiss.search(queries[todo], asked)
            exact = self._inner_products(queries[todo], rows)
            order = np.lexsort((rows, -exact))[:, :k]
            similar[todo] = np.take_along_axis(exact, order, 1)
            at[todo] = np.take_along_axis(rows, order, 1)
            # What was not asked for lies below the last that was, and must not tie with the k-th.
            open_ = (asked < len(self)) & (rough[:, -1] >= similar[todo, -1] - _MARGIN)
            todo, asked = todo[open_], min(4 * asked, len(self))
        return similar, at

    def _inner_products(self, queries: Float32, rows: Int64) -> Float32:
        """(Q, k) of queries (Q, D) and entries (Q, k), each summed alone in float64."""
        out = np.empty(rows.shape, np.float32)
        most = max(1, _GATHERED // self.dimension)  # entries at once; many where many are equal
        wide = min(most, rows.shape[1])
        for begin in range(0, len(rows), most // wide):
            asked = queries[begin : begin + most // wide].astype(np.float64)
            for left in range(0, rows.shape[1], wide):
                part = slice(begin, begin + most // wide), slice(left, left + wide)
                held = self._faiss.reconstruct_batch(np.ascontiguousarray(rows[part].ravel()))
                held = held.reshape(*rows[part].shape, self.dimension).astype(np.float64)
                out[part] = np.einsum("qkd,qd->qk", held, asked)
        return out

    def _approximate(self, queries: Float32, k: int) -> tuple[Float32, Int64]:
        similar, serial = self._faiss.search(queries, k)
        missing = serial < 0  # the lists that were looked into hold fewer than k
        rows = np.searchsorted(self._serial, serial)
        similar = np.where(missing, -np.inf, similar).astype(np.float32)
        order = np.lexsort((np.where(missing, len(self), rows), -similar))
        rows = np.where(missing, -1, rows)
        return np.take_along_axis(similar, order, 1), np.take_along_axis(rows, order, 1)

    def save(self, folder: str | Path, *, source: str | None = None) -> None:
        """Write index.json and index.faiss into a folder, made when missing.

        `source` says what the descriptors belong to, such as a map's fingerprint; see `load`.
        """
        from pyloc_core.retrieval import index_file

        index_file.save(self, Path(folder), source)

    @classmethod
    def load(
        cls, folder: str | Path, *, source: str | None = None, memory_map: bool = True
    ) -> Index:
        """Read what `save` wrote; the vectors stay on disk unless `memory_map` is False.

        FAISS trusts its files, so their checksum is compared before it reads them.

        Raises ValueError naming the file that is missing, damaged, of another version, or, when `source`
        is given, saved with another one.
        """
        from pyloc_core.retrieval import index_file

        return index_file.load(cls, Path(folder), source, memory_map)

    def _to_memory(self) -> None:
        """Before a change: FAISS ends the process when mapped vectors are to grow."""
        if self._mapped is not None:
            faiss = faiss_index.module()  # its clone would still look into the file
            self._faiss = faiss.deserialize_index(faiss.serialize_index(self._faiss))
            self._mapped = None

    def _vectors(self, values: Any, name: str) -> Float32:
        """(N, D) float32, finite, of length 1 or 0."""
        shape: tuple[int | str, ...] = ("N", self.dimension)
        vectors = _arrays.as_array(values, name, shape=shape, dtype="float32").data
        length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        off = np.flatnonzero((np.abs(length - 1) > _UNIT_TOLERANCE) & (length > 0))
        if len(off):
            raise ValueError(
                f"{name} must hold unit vectors: row {off[0]} has length {length[off[0]]:.4g}"
            )
        return vectors

    def _checked_names(
        self, names: Sequence[str | int] | None, count: int
    ) -> list[str | int] | None:
        if names is None:
            if self._names is not None and count:
                raise ValueError("the index holds named entries: names are needed")
            return None
        given = [n.item() if isinstance(n, np.generic) else n for n in names]
        if len(given) != count:
            raise ValueError(f"{len(given)} names for {count} descriptors")
        if self._names is None and len(self) and count:
            raise ValueError("the index holds numbered entries: names must be None")
        held: set[str | int] = set(self._names or [])
        for name in given:
            if isinstance(name, bool) or not isinstance(name, (str, int)):
                raise TypeError(f"names must be strings or integers, got {name!r}")
            if name in held:
                raise ValueError(f"names must differ: {name!r} is there twice")
            held.add(name)
        return given
