# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""FAISS (Douze et al. 2024) as the index needs it: making, training, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _build
from pyloc_core._extras import require
from pyloc_core.retrieval.options import IndexOptions

Float32 = npt.NDArray[np.float32]
# A byte codes one of 256 centres, and k-means needs as many vectors as centres.
FEWEST_TRAINING_VECTORS = 256
# FAISS holds a list for well trained from this many vectors on.
_PER_LIST = 39


def module() -> Any:
    return require("faiss", "an index of global descriptors")


@contextmanager
def threads(num_threads: int | None) -> Iterator[None]:
    """FAISS has OpenMP threads of its own. OpenMP keeps the number per calling thread, so that this
    changes nothing for others, and it is put back."""
    faiss = module()
    count = _arrays.thread_count(num_threads) or _build.get_num_threads()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def empty(dimension: int, options: IndexOptions, training: int) -> Any:
    """A FAISS index without vectors; `training` is how many it will learn from."""
    faiss = module()
    if options.kind == "flat":
        return faiss.IndexFlatIP(dimension)
    lists = options.lists or int(np.clip(np.sqrt(training), 1, max(1, training // _PER_LIST)))
    fewest = max(FEWEST_TRAINING_VECTORS, lists)
    if training < fewest:
        raise ValueError(
            f"an ivf_pq index of {lists} lists learns from at least {fewest} vectors, got {training}:"
            " add more at first, or take kind='flat'"
        )
    quantizer = faiss.IndexFlatIP(dimension)
    made = faiss.IndexIVFPQ(
        quantizer, dimension, lists, options.code_size(dimension), 8, faiss.METRIC_INNER_PRODUCT
    )
    quantizer.this.disown()
    made.own_fields = True
    made.nprobe = options.probes
    for learned in (made.cp, made.pq.cp):
        learned.seed = options.seed % 2**31
        learned.min_points_per_centroid = 1  # fewer are refused above, without a line on stderr
    return made


def trained(vectors: Float32, options: IndexOptions) -> Any:
    """An empty index that has learned its lists and codes from (N, D)."""
    some = vectors
    if len(vectors) > options.training_vectors:
        at = np.linspace(0, len(vectors) - 1, options.training_vectors).astype(np.int64)
        some = vectors[at]
    made = empty(vectors.shape[1], options, len(some))
    if options.kind != "flat":
        made.train(some)
    return made
