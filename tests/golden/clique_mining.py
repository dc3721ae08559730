# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden case of CliqueMining: the graph of all frames, its cliques, the sampling probabilities."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from pyloc_core._extras import require
from pyloc_core.mining import CliqueSampler
from pyloc_core.mining.place_graph import edges


def sampler_of(case: dict[str, Any], golden: ModuleType, **options: Any) -> CliqueSampler:
    """The sampler of the case: one city, a descriptor per cluster."""
    given = case["input"]
    drawn = golden.normal(case["seed"], "desc", (given["num_clusters"], 64))
    return CliqueSampler(
        np.array(given["utm_easting_northing"]),
        np.array(given["cluster_of_frame"]),
        drawn / np.linalg.norm(drawn, axis=1, keepdims=True),
        threshold=given["threshold_m"],
        images_per_place=given["images_per_place"],
        similar_sequences=given["sampled_similar_places"],
        **options,
    )


def graph(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """Edges, degrees, cliques (by NetworkX, as published), probabilities per reference cluster."""
    networkx = require("networkx", "the maximal cliques")
    given = case["input"]
    pairs = edges(np.array(given["utm_easting_northing"]), given["threshold_m"])
    built = networkx.Graph(pairs.tolist())
    built.add_nodes_from(range(given["num_frames"]))
    sizes = [len(clique) for clique in networkx.find_cliques(built)]
    sampler = sampler_of(case, golden)
    outputs = {
        "edges": pairs,
        "degree": np.bincount(pairs.ravel(), minlength=given["num_frames"]),
        "num_edges": [len(pairs)],
        "num_maximal_cliques": [len(sizes)],
        "largest_clique": [max(sizes)],
        "num_maximal_cliques_ge_K": [sum(s >= given["images_per_place"] for s in sizes)],
    }
    prefix = "sampling_probability_"
    for name in case["outputs"]:
        if name.startswith(prefix):
            outputs[name] = sampler.sampling_probabilities(int(name.removeprefix(prefix)))
    return outputs


CASES = {"clique_mining_*": graph}
