# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of the assignment operators: SALAD's, CliqueMining's and SuperGlue's optimal transport."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from golden_draws import drawn

import pyloc_core as pl
from pyloc_core.integrations.superglue import log_optimal_transport


def transport(case: dict[str, Any], golden: ModuleType) -> dict[str, Any]:
    """SALAD's dustbin row (CliqueMining computes the same) and SuperGlue's row and column."""
    inputs = case["input"]
    scores = torch.from_numpy(drawn(inputs["scores"], golden, case["seed"])).float()
    dustbin, iterations = torch.tensor(float(inputs["dustbin"])), int(inputs["iterations"])
    salad = pl.salad_assign(scores, dustbin, iterations=iterations)
    superglue = log_optimal_transport(scores, dustbin, iterations)
    return {
        "salad": salad.numpy(),
        "clique_mining": salad.numpy(),
        "superglue": superglue.numpy(),
        "row_sums": salad.exp().sum(2).numpy(),
        "col_sums": salad.exp().sum(1).numpy(),
    }


CASES = {"sinkhorn_*": transport}
