# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The head of SALAD, for any backbone that gives a map of patches and one token for the whole image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyloc_core import _checks
from pyloc_core.models.network import initialise
from pyloc_core.ops.salad_aggregate import salad_aggregate, salad_assign

# Descriptor sizes of the thesis, section 4.2.1, as options of the head and of the network. It prints
# 15 clusters for the smallest, which would be 480 values and not the 512 of its tables.
HEADS = {
    "8192+256": {"num_clusters": 64, "cluster_dim": 128, "token_dim": 256},
    "2048+64": {"num_clusters": 32, "cluster_dim": 64, "token_dim": 64},
    "512+32": {"num_clusters": 16, "cluster_dim": 32, "token_dim": 32},
}


class SALADHead(nn.Module):
    """Patches (B, C, h, w) and token (B, C) to unit descriptors (B, token_dim + cluster_dim * clusters).

    Every patch is assigned to clusters or to a dustbin by entropic optimal transport: a patch has mass
    1, a cluster takes 1, the dustbin the rest. Patches, brought to `cluster_dim` values, are summed per
    cluster with these weights; sums and token are normalised, the token part comes first, and value
    `l * num_clusters + k` of the rest is dimension l of cluster k.

    Args:
        channels: C of the backbone.
        num_clusters, cluster_dim, token_dim: see above; `HEADS` has the published sizes. token_dim 0
            leaves the token out: one that a backbone gives is not used.
        hidden: width of the layer between, in all three branches.
        dropout: share of hidden values dropped in training mode (scores and patches, not the token).
        iterations: of Sinkhorn's algorithm.
        seed: of the random weights.

    Source: Izquierdo, Civera, "Optimal transport aggregation for visual place recognition", CVPR 2024,
    Eqs. 1 to 6 (thesis, Eqs. 4.1 to 4.6). Parameters bear the published names.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_clusters: int = 64,
        cluster_dim: int = 128,
        token_dim: int = 256,
        hidden: int = 512,
        dropout: float = 0.3,
        iterations: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels = _checks.integer("channels", channels, 1)
        self.num_clusters = num_clusters = _checks.integer("num_clusters", num_clusters, 1)
        self.cluster_dim = cluster_dim = _checks.integer("cluster_dim", cluster_dim, 1)
        self.token_dim = token_dim = _checks.integer("token_dim", token_dim, 0)
        self.iterations = _checks.integer("iterations", iterations, 1)
        hidden = _checks.integer("hidden", hidden, 1)
        if _checks.number("dropout", dropout) >= 1:
            raise ValueError(f"dropout must be below 1, got {dropout}")
        self.dust_bin = nn.Parameter(torch.tensor(1.0))
        if token_dim:
            self.token_features = nn.Sequential(
                nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, token_dim)
            )
        self.cluster_features = _two_layers(channels, hidden, cluster_dim, dropout)
        self.score = _two_layers(channels, hidden, num_clusters, dropout)
        initialise(self, _checks.integer("seed", seed, 0))

    @property
    def descriptor_size(self) -> int:
        return self.token_dim + self.cluster_dim * self.num_clusters

    def scores(self, patches: Tensor) -> Tensor:
        """(B, m, n) affinities of n = h w patches, row by row, to m clusters. ValueError where n <= m:
        nothing would be left for the dustbin."""
        h, w = self._checked(patches).shape[2:]
        if h * w <= self.num_clusters:
            raise ValueError(
                f"SALAD needs more patches than clusters, got {h} x {w} patches for "
                f"{self.num_clusters} clusters: larger images, or fewer clusters"
            )
        return _accumulated(self.score(patches).flatten(2))

    def features(self, patches: Tensor) -> Tensor:
        """(B, l, n): what is summed up per cluster."""
        return _accumulated(self.cluster_features(self._checked(patches)).flatten(2))

    def log_assignment(self, patches: Tensor) -> Tensor:
        """(B, m + 1, n): log of the share of each patch that each cluster gets; the dustbin last."""
        return salad_assign(self.scores(patches), self.dust_bin, iterations=self.iterations)

    def forward(self, patches: Tensor, token: Tensor | None = None) -> Tensor:
        scores, features = self.scores(patches), self.features(patches)
        of_token = None
        if self.token_dim:
            if token is None:
                raise ValueError(f"a head with token_dim {self.token_dim} was given no token")
            if token.shape != (len(patches), self.channels):
                expected = (len(patches), self.channels)
                raise ValueError(f"token must be {expected}, got {tuple(token.shape)}")
            of_token = _accumulated(self.token_features(token))
        return salad_aggregate(
            scores, features, of_token, self.dust_bin, iterations=self.iterations
        )

    def _checked(self, patches: Tensor) -> Tensor:
        if not isinstance(patches, Tensor):
            raise TypeError(f"patches must be a tensor, got {type(patches).__name__}")
        if patches.dim() != 4 or patches.shape[1] != self.channels:
            raise ValueError(
                f"patches must be (B, {self.channels}, h, w), got {tuple(patches.shape)}"
            )
        return patches


def _two_layers(channels: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.Dropout(dropout), nn.ReLU(), nn.Conv2d(hidden, out, 1)
    )


def _accumulated(values: Tensor) -> Tensor:
    """In float32 where autocast made it less: transport and sums are not for half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
