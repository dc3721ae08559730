# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes mine, lose and learn like one: descriptors are gathered before the online selection."""

from __future__ import annotations

from pathlib import Path

import pytest
from two_processes import run_as_one_and_two

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("pytorch_metric_learning")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

# One training process: both sources, three steps, then its weights go to a file of its rank.
PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from pyloc_core.models.mixer_head import MixerHead
from pyloc_core.models.place_network import PlaceNetwork, SmallBackbone
from pyloc_core.training import MinedPlaces, PlaceOptions, StreetScenes, train_places

out, rank = Path(sys.argv[1]), int(os.environ.get("RANK", "0"))
city = StreetScenes(streets=6, size=16, pixels_per_metre=0.4, seed=1).places(4)
held = StreetScenes(streets=3, size=16, pixels_per_metre=0.4, seed=2).places(3)
rows = np.random.default_rng(0).permutation(len(city))[:36].reshape(3, 4, 3)
backbone = SmallBackbone((16,), seed=rank)  # DDP hands out the weights of process 0
network = PlaceNetwork(backbone, MixerHead(16, (4, 4), channels_out=4, rows_out=2, depth=1))

class Plain(PlaceOptions):  # AdamW would hide a factor on the gradient
    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=self.learning_rate)

options = Plain(epochs=1, places=6, images=3, image_size=16, learning_rate=0.05)
# The mined places are none: nothing is learned of them, but the arithmetic is the same.
outcome = train_places(network, city, held, out, options, mined=MinedPlaces(city, rows),
                       device="cpu", progress_bar=False, tensorboard=False)
torch.save({"state": network.state_dict(), "held_out": list(outcome.held_out),
            "steps": outcome.steps}, out / f"rank{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    folders = run_as_one_and_two(PROGRAM, tmp_path)
    one = torch.load(folders[1] / "rank0.pt", weights_only=True)
    two = [torch.load(folders[2] / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert one["steps"] == two[0]["steps"] == 6
    for name, value in one["state"].items():
        assert torch.equal(two[0]["state"][name], two[1]["state"][name]), name
        torch.testing.assert_close(two[0]["state"][name], value, rtol=1e-4, atol=1e-5)
    assert two[0]["held_out"] == two[1]["held_out"]
    assert two[0]["held_out"] == pytest.approx(one["held_out"], abs=0.05)
