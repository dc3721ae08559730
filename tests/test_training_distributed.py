# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes under torchrun's variables train like one with the same batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from two_processes import run_as_one_and_two

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("skimage")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

# One training process: toy network, four steps, then its weights go to a file of its rank.
PROGRAM = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from torch import nn
from pyloc_core.training import DensePairLoss, PairDataset, TrainingOptions, WarpedPairs, train

out = Path(sys.argv[1])
torch.manual_seed(int(os.environ.get("RANK", "0")))  # DDP hands out the weights of process 0
network = nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
source = WarpedPairs(size=(64, 64), points=40, strength=0.2, photos=())
options = TrainingOptions(epochs=2, pairs_per_epoch=8, batch=4, points=16, held_out_pairs=3,
                          warmup_steps=0, learning_rate=1e-2)
data = PairDataset([source], 8, points=16)
held = PairDataset([source], 3, points=16, seed=9, fresh=False)
model = DensePairLoss(network)
outcome = train(model, data, held, out, options, device="cpu", progress_bar=False, tensorboard=False)
torch.save({"state": model.state_dict(), "held_out": list(outcome.held_out)},
           out / f"rank{os.environ.get('RANK', '0')}.pt")
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path) -> None:
    folders = run_as_one_and_two(PROGRAM, tmp_path)
    one = torch.load(folders[1] / "rank0.pt", weights_only=True)
    two = [torch.load(folders[2] / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    for name, value in one["state"].items():
        assert torch.equal(two[0]["state"][name], two[1]["state"][name]), name
        # Adam divides by the gradient's size: rounding in the mean over processes is what differs.
        torch.testing.assert_close(two[0]["state"][name], value, rtol=1e-3, atol=2e-5)
    assert two[0]["held_out"] == two[1]["held_out"]
    torch.testing.assert_close(
        torch.tensor(two[0]["held_out"]), torch.tensor(one["held_out"]), rtol=1e-4, atol=1e-4
    )
    # Process 0 alone wrote the checkpoint.
    assert sorted(p.name for p in folders[2].glob("*.safetensors")) == sorted(
        p.name for p in folders[1].glob("*.safetensors")
    )
