# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The index of global descriptors against brute force, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

faiss = pytest.importorskip("faiss")

from pyloc_core.retrieval import Index, IndexOptions  # noqa: E402


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.normal(size=shape).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def clustered(rng: np.random.Generator, count: int, depth: int) -> np.ndarray:
    """Vectors around 200 centres: what inverted lists are made for."""
    centres = unit(rng, 200, depth)
    drawn = centres[rng.integers(0, 200, count)] + 0.5 * unit(rng, count, depth)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    similar = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    rows = np.broadcast_to(np.arange(len(vectors)), similar.shape)
    order = np.lexsort((rows, -similar))[:, :k]
    return np.take_along_axis(similar, order, 1), order


@pytest.mark.parametrize(("count", "depth", "k"), [(1, 3, 1), (40, 7, 40), (3000, 96, 20)])
def test_exact_index_is_brute_force(rng, count, depth, k) -> None:
    vectors, queries = unit(rng, count, depth), unit(rng, 50, depth)
    found = Index.build(vectors).search(queries, k)
    similar, rows = brute_force(vectors, queries, k)
    np.testing.assert_array_equal(found.indices, rows)
    np.testing.assert_allclose(found.similarities, similar, atol=1e-7)
    assert found.similarities.dtype == np.float32 and found.indices.dtype == np.int64


@pytest.mark.parametrize("gathered", [1 << 23, 33 * 7])
def test_ties_come_in_order_of_the_entries(rng, monkeypatch, gathered) -> None:
    monkeypatch.setattr("pyloc_core.retrieval.index._GATHERED", gathered)  # in parts: same bits
    base = unit(rng, 5, 33)
    vectors = base[rng.integers(0, 5, 900)]  # each some 180 times
    index = Index.build(vectors)
    for k in (1, 3, 50, 200, 900):
        found = index.search(base, k)
        np.testing.assert_array_equal(found.indices, brute_force(vectors, base, k)[1])
    nothing = index.search(np.zeros((2, 33), np.float32), 4)  # equal to all
    assert not nothing.similarities.any() and nothing.indices.tolist() == [[0, 1, 2, 3]] * 2


def test_a_query_has_the_same_bits_in_any_company_and_on_any_threads(rng) -> None:
    vectors, queries = unit(rng, 2000, 65), unit(rng, 64, 65)
    index = Index.build(vectors)
    found = index.search(queries, 9, num_threads=1)
    for threads in (2, 3, None):
        again = index.search(queries, 9, num_threads=threads)
        np.testing.assert_array_equal(found.similarities, again.similarities)
        np.testing.assert_array_equal(found.indices, again.indices)
    alone = [index.search(queries[i : i + 1], 9) for i in range(64)]
    np.testing.assert_array_equal(found.similarities, np.concatenate([a[0] for a in alone]))
    before = faiss.omp_get_max_threads()
    index.search(queries, 1, num_threads=before + 1)
    assert faiss.omp_get_max_threads() == before
    with ThreadPoolExecutor(4) as pool:
        for each in pool.map(lambda n: index.search(queries, 9, num_threads=n), [1, 2, 3, 4] * 3):
            np.testing.assert_array_equal(found.similarities, each.similarities)


def test_fewer_entries_than_asked_for(rng) -> None:
    vectors = unit(rng, 3, 8)
    found = Index.build(vectors).search(vectors, 5)
    assert (found.indices[:, 3:] == -1).all() and np.isneginf(found.similarities[:, 3:]).all()
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(3))
    nothing = Index(8).search(vectors, 2)
    assert (nothing.indices == -1).all() and np.isneginf(nothing.similarities).all()
    assert Index.build(vectors).search(vectors[:0], 2).indices.shape == (0, 2)
    assert len(Index.build(vectors[:0])) == 0


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_adding_in_parts_equals_building_at_once(rng, kind) -> None:
    vectors, queries = clustered(rng, 1200, 32), clustered(rng, 20, 32)
    options = IndexOptions(kind=kind, lists=8, probes=4, code_bytes=8)
    whole, parts = Index(32, options=options), Index(32, options=options)
    for index in (whole, parts):
        index.train(
            vectors, num_threads=1
        )  # OpenMP's threads wait for each other on a busy machine
    whole.add(vectors)
    for begin in range(0, 1200, 350):
        parts.add(vectors[begin : begin + 350], num_threads=1)
    for a, b in zip(whole.search(queries, 10), parts.search(queries, 10)):
        np.testing.assert_array_equal(a, b)
    assert whole.names == parts.names == list(range(1200))


def test_product_quantization_finds_most_of_what_is_near(rng) -> None:
    vectors = clustered(rng, 3000, 64)
    queries = vectors[:100] + 0.1 * unit(rng, 100, 64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = Index.build(vectors).search(queries, 10).indices
    options = {"kind": "ivf_pq", "num_threads": 1}
    index = Index.build(vectors, lists=32, probes=8, code_bytes=32, **options)
    found = index.search(queries, 10)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found.indices)])
    assert share > 0.75, share
    assert np.mean(found.indices[:, 0] == np.arange(100)) > 0.95
    one, two = (index.search(queries, 10, num_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_array_equal(one.similarities, two.similarities)
    # One list alone may hold fewer than k.
    sparse = Index.build(vectors[:300], lists=100, probes=1, code_bytes=4, **options)
    few = sparse.search(queries, 50)
    assert (few.indices == -1).any()
    assert ((few.indices == -1) == np.isneginf(few.similarities)).all()


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
@pytest.mark.parametrize("memory_map", [True, False])
def test_removal_and_files(rng, kind, memory_map, tmp_path) -> None:
    vectors = clustered(rng, 500, 16)
    names = [f"image_{i}" for i in range(500)]
    options = {"kind": kind, "lists": 4, "probes": 4, "code_bytes": 16}
    index = Index.build(vectors, names, num_threads=1, **options)
    index.remove(["image_3", "image_499", "image_3"])
    assert len(index) == 498 and "image_3" not in index.names
    found = index.search(vectors[3:6], 4)
    assert 3 not in [names.index(index.names[i]) for i in found.indices[0]]
    kept = [n for n in names if n not in ("image_3", "image_499")]
    assert index.names == kept
    if kind == "flat":
        np.testing.assert_array_equal(found.indices[1:, 0], [3, 4])
    index.save(tmp_path, source="a")
    again = Index.load(tmp_path, source="a", memory_map=memory_map)
    assert again.names == kept and again.options == index.options
    for a, b in zip(again.search(vectors[:20], 7), index.search(vectors[:20], 7)):
        np.testing.assert_array_equal(a, b)
    for each in (index, again):  # a loaded index grows like any other
        each.add(vectors[:2], ["x", "y"])
        each.remove(["image_0"])
    for a, b in zip(again.search(vectors[:20], 7), index.search(vectors[:20], 7)):
        np.testing.assert_array_equal(a, b)
    again.save(tmp_path)
    assert Index.load(tmp_path).names == again.names


def test_numbered_entries_keep_their_numbers(rng, tmp_path) -> None:
    vectors = unit(rng, 6, 8)
    index = Index.build(vectors)
    index.remove([1, 4])
    index.add(vectors[:1])
    assert index.names == [0, 2, 3, 5, 6]
    index.save(tmp_path)
    loaded = Index.load(tmp_path)
    assert loaded.names == index.names
    loaded.add(vectors[:1])
    assert loaded.names[-1] == 7
    Index(4).save(tmp_path)
    empty = Index.load(tmp_path)
    assert len(empty) == 0 and empty.search(unit(rng, 1, 4), 1).indices.tolist() == [[-1]]


def test_what_is_refused(rng) -> None:
    vectors = unit(rng, 10, 8)
    index = Index.build(vectors, [str(i) for i in range(10)])
    bad = vectors.copy()
    bad[3, 2] = np.nan
    for call, words in (
        (lambda: index.add(bad, list("abcdefghij")), "descriptors holds NaN"),
        (lambda: index.search(bad, 1), "queries holds NaN"),
        (lambda: index.search(vectors[:, :7], 1), r"queries must have shape \(N, 8\)"),
        (lambda: index.search(vectors[0], 1), "queries must have shape"),
        (lambda: index.add(2 * vectors, list("abcdefghij")), "unit vectors: row 0 has length 2"),
        (lambda: index.search(vectors, 0), "k must be at least 1"),
        (lambda: index.add(vectors), "names are needed"),
        (lambda: index.add(vectors[:2], ["a", "a"]), "'a' is there twice"),
        (lambda: index.add(vectors[:1], ["3"]), "'3' is there twice"),
        (lambda: index.add(vectors[:2], ["a"]), "1 names for 2"),
        (lambda: Index.build(vectors).add(vectors[:1], ["a"]), "names must be None"),
        (lambda: index.remove(["12"]), "no entry '12'; did you mean"),
        (lambda: Index(0), "dimension must be positive"),
        (lambda: Index(8, kind="flta"), "did you mean flat"),
        (lambda: Index(8, kind="ivf_pq", code_bytes=3), "must divide the dimension 8"),
        (lambda: Index.build(vectors, kind="ivf_pq"), "at least 256 vectors, got 10"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="did you mean probes"):
        Index(8, probe=3)
    with pytest.raises(TypeError, match="k must be an int"):
        index.search(vectors, 1.5)
    assert len(index) == 10 and index.names == [str(i) for i in range(10)]
    zero = Index.build(np.concatenate([vectors, np.zeros((1, 8), np.float32)]))
    assert zero.search(np.zeros((1, 8)), 3).indices.tolist() == [[0, 1, 2]]


def test_damaged_files_and_other_versions(rng, tmp_path) -> None:
    index = Index.build(unit(rng, 30, 8), [str(i) for i in range(30)])
    index.save(tmp_path, source="this map")
    with pytest.raises(ValueError, match=r"index\.json was made for other descriptors"):
        Index.load(tmp_path, source="another")
    with pytest.raises(ValueError, match=r"index\.json is missing"):
        Index.load(tmp_path / "nowhere")
    description, vectors = tmp_path / "index.json", tmp_path / "index.faiss"
    content, whole = json.loads(description.read_text()), vectors.read_bytes()
    for change in (
        {"version": 2}, {"format": "x"}, {"metric": "l2"}, {"count": 29}, {"dimension": 9},
        {"dimension": "8"}, {"names": ["a"]}, {"options": {"kind": "other"}}, {"options": {"x": 1}},
        {"next": 3}, {"sha256": None}, {"options": {"kind": "ivf_pq"}}, {"serial": [0]},
    ):  # fmt: skip
        description.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=r"index\.(json|faiss)"):
            Index.load(tmp_path)
    for text in ("", "{", "[]", "\x00"):
        description.write_text(text)
        with pytest.raises(ValueError, match=r"index\.json"):
            Index.load(tmp_path)
    description.write_text(json.dumps(content))
    for place in (0, 5, 40, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 8
        for form in (bytes(flipped), whole[:place], whole + b"x"):
            vectors.write_bytes(form)
            with pytest.raises(ValueError, match=r"index\.faiss is damaged"):
                Index.load(tmp_path)
    vectors.unlink()
    with pytest.raises(ValueError, match=r"index\.faiss"):
        Index.load(tmp_path)


def test_tensors_in_tensors_out(rng) -> None:
    torch = pytest.importorskip("torch")
    vectors = unit(rng, 20, 8)
    index = Index.build(torch.from_numpy(vectors))
    found = index.search(torch.from_numpy(vectors), 3)
    assert isinstance(found.similarities, torch.Tensor) and isinstance(found.indices, torch.Tensor)
    np.testing.assert_array_equal(found.indices.numpy(), brute_force(vectors, vectors, 3)[1])
    half = Index.build(torch.from_numpy(vectors).bfloat16()).search(vectors, 1)
    np.testing.assert_array_equal(half.indices[:, 0], np.arange(20))


def test_no_faiss_is_imported_before_it_is_needed() -> None:
    import pyloc_core

    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import pyloc_core.retrieval; "
        "assert not {'faiss', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    root = str(Path(pyloc_core.__file__).parents[1])
    subprocess.run([sys.executable, "-c", program, root], check=True, timeout=60)
