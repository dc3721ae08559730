# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop on a toy network: it learns, resumes with the same bits, stops, refuses."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("safetensors")
pytest.importorskip("skimage")

from torch import nn  # noqa: E402

from pyloc_core.training import (  # noqa: E402
    DensePairLoss,
    PairDataset,
    TrainingOptions,
    WarpedPairs,
    train,
)
from pyloc_core.training.__main__ import main  # noqa: E402
from pyloc_core.training.loss import cells, pair_losses, read_bilinear  # noqa: E402

SIZE = (64, 64)


class Toy(nn.Module):
    """Two convolutions at stride 4."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, 12, 4, stride=4)
        self.second = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        out = self.second(torch.relu(self.first(gray - 0.5)))
        return nn.functional.normalize(out, dim=1)


def pairs(length: int, seed: int = 0, fresh: bool = True) -> PairDataset:
    source = WarpedPairs(
        size=SIZE, angle=5, log_scale=0.02, perspective=0.01, strength=0.2, points=60
    )
    return PairDataset([source], length, points=24, seed=seed, fresh=fresh)


def options(**changed: object) -> TrainingOptions:
    values = {"epochs": 2, "pairs_per_epoch": 8, "batch": 2, "points": 24, "held_out_pairs": 3,
              "learning_rate": 3e-3, "warmup_steps": 3, "log_every": 1}  # fmt: skip
    return TrainingOptions.from_dict({**values, **changed})


def run(folder: Path, model: nn.Module | None = None, resume: bool = False, **changed: object):
    chosen = options(**changed)
    model = model or DensePairLoss(Toy(), beta=10.0)
    training = pairs(chosen.pairs_per_epoch)
    outcome = train(
        model, training, pairs(chosen.held_out_pairs, 99, fresh=False), folder, chosen,
        device="cpu", resume=resume, progress_bar=False, tensorboard=False,
    )  # fmt: skip
    return model, outcome


def test_the_loss_falls(tmp_path: Path) -> None:
    model, outcome = run(tmp_path, epochs=6, pairs_per_epoch=24)
    before = DensePairLoss(Toy(), beta=10.0)
    item = {k: v[None] for k, v in pairs(1, 5)[0].items()}
    with torch.no_grad():
        old, new = (float(m(item)["dense"]) for m in (before, model))
    assert new < old - 0.3 and outcome.held_out[-1] < outcome.held_out[0]
    assert outcome.steps == 72 and outcome.best == min(outcome.held_out)
    assert (tmp_path / "best.safetensors").is_file()


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", epochs=3)
    run(tmp_path / "parts", epochs=1)
    parts, outcome = run(tmp_path / "parts", DensePairLoss(Toy(seed=7), beta=10.0), True, epochs=3)
    assert outcome.steps == 12 and len(outcome.held_out) == 2
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    kept = torch.load(tmp_path / "parts/state.pt", weights_only=True)
    assert kept["progress"]["step"] == 12 and kept["options"]["epochs"] == 3


def test_resume_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run(tmp_path / "whole", epochs=2)
    from pyloc_core.training import loop

    step, count = loop._Run._step, iter(range(100))

    def interrupted(self: object, batch: object) -> object:
        if next(count) == 6:
            raise KeyboardInterrupt
        return step(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", checkpoint_every=1)
    parts, _ = run(
        tmp_path / "cut", DensePairLoss(Toy(seed=7), beta=10.0), True, checkpoint_every=1
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_a_run_stops_when_held_out_pairs_do_not_improve(tmp_path: Path) -> None:
    """At a rate near zero nothing changes: the first loss stays the best up to rounding."""
    _, outcome = run(tmp_path, epochs=50, patience=2, learning_rate=1e-30, batch=8)
    assert outcome.steps < 10 and "no better held-out score in 2 epochs" in outcome.reason
    _, late = run(tmp_path / "late", max_minutes=1e-9)
    assert late.steps == 1 and late.reason == "max_minutes reached"


def test_mixed_precision_is_near_full(tmp_path: Path) -> None:
    full, _ = run(tmp_path / "full", epochs=1)
    half, _ = run(tmp_path / "half", epochs=1, precision="bfloat16")
    item = {k: v[None] for k, v in pairs(1, 5)[0].items()}
    with torch.no_grad():
        a, b = float(full(item)["dense"]), float(half(item)["dense"])
    assert a != b and abs(a - b) < 0.15
    assert all(p.dtype == torch.float32 for p in half.parameters())
    with pytest.raises(ValueError, match="float16 needs CUDA"):
        run(tmp_path / "no", precision="float16")


def test_scalars_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(DensePairLoss(Toy(), 10.0), pairs(8), pairs(3, 99, False), tmp_path, options(epochs=1),
          device="cpu", progress_bar=False)  # fmt: skip
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/dense", "train/rate", "train/gradient_norm", "held_out/dense"} <= tags
    rates = [e.value for e in events.Scalars("train/rate")]
    np.testing.assert_allclose(rates, [1e-3, 2e-3, 3e-3, 3e-3], rtol=1e-6)


def test_the_schedule_is_that_of_the_thesis() -> None:
    usual = TrainingOptions()
    assert usual.learning_rate == 1e-3 and usual.rate(0, 10_000) == 1e-3
    assert math.isclose(usual.rate(7, 10_000), 1e-3 * math.exp(-0.7))
    assert math.isclose(usual.rate(0, 49), 0.5e-3)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint in"):
        run(tmp_path / "none", resume=True)
    run(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"made with batch = 2, not 4"):
        run(tmp_path, resume=True, batch=4)
    wider = Toy()
    wider.second = nn.Conv2d(12, 14, 3, padding=1)
    with pytest.raises(ValueError, match="another network"):
        run(tmp_path, DensePairLoss(wider, 10.0), True)
    state = tmp_path / "state.pt"
    good = state.read_bytes()
    state.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="cannot read the checkpoint"):
        run(tmp_path, resume=True)

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    state.write_bytes(pickle.dumps({"weights": Evil()}))
    with pytest.raises(ValueError, match="cannot read the checkpoint"):
        run(tmp_path, resume=True)
    assert not (tmp_path / "executed").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = DensePairLoss(Toy(), 10.0)
    with torch.no_grad():
        model.network.first.weight[0] = float("nan")
    with pytest.raises((FloatingPointError, ValueError)):
        run(tmp_path, model)


def test_unknown_and_impossible_options_are_refused() -> None:
    with pytest.raises(TypeError, match="did you mean learning_rate"):
        TrainingOptions.from_dict({"learning_rte": 1.0})
    for bad, error in (({"batch": 0}, ValueError), ({"epochs": 1.5}, TypeError),
                       ({"clip_norm": float("nan")}, ValueError), ({"seed": True}, TypeError),
                       ({"precision": "int8"}, ValueError)):  # fmt: skip
        with pytest.raises(error, match=next(iter(bad))):
            TrainingOptions(**bad)


def test_loss_is_the_softened_error_at_the_target() -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(1, 6, 5, 7, generator=rng)
    described = torch.randn(1, 3, 6, generator=rng)
    at = torch.tensor([[[2.25, 1.5], [0.0, 0.0], [5.5, 3.75]]])
    logits = (described[0] @ features[0].flatten(1)).log_softmax(1).reshape(3, 5, 7)
    read = torch.stack(
        [read_bilinear(v[None, None], p[None, None])[0, 0, 0] for v, p in zip(logits, at[0])]
    )
    expected = -torch.logaddexp(read, torch.tensor(-math.log(36)))
    weight = torch.tensor([[1.0, 0.0, 1.0]])
    found = pair_losses(described, features, at, weight)
    torch.testing.assert_close(found[0], (expected[0] + expected[2]) / 2, rtol=1e-5, atol=1e-5)
    size = torch.Size((40, 56))
    xy = torch.tensor([[4.0, 4.0], [56.0, 40.0]])
    torch.testing.assert_close(
        cells(xy, size, torch.Size((5, 7))), torch.tensor([[0.0, 0.0], [6.5, 4.5]])
    )


@pytest.mark.slow
def test_the_command_trains_the_projects_network(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from pyloc_core.models.gradnet.weights import load_network

    (tmp_path / "options.json").write_text(json.dumps({"pairs_per_epoch": 2, "epochs": 1}))
    code = main([
        "--out", str(tmp_path / "run"), "--no-rooms", "--options", str(tmp_path / "options.json"),
        "--batch", "1", "--held-out-pairs", "1", "--device", "cpu", "--quiet", "--no-tensorboard",
    ])  # fmt: skip
    assert code == 0 and "2 steps" in capsys.readouterr().out
    load_network(tmp_path / "run/best.safetensors")


def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"bach": 2}))
    for arguments, message in (
        (["--options", str(tmp_path / "options.json")], "did you mean batch"),
        (["--no-rooms", "--no-textures"], "nothing to train on"),
        (["--images", str(tmp_path)], "holds no pictures"),
        (["--batch", "0"], "batch must be at least 1"),
    ):
        assert main(["--out", str(tmp_path / "run"), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_the_command_line_hands_its_arguments_on(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from pyloc_core.cli import app

    shown = CliRunner().invoke(app, ["train", "--help"])
    assert shown.exit_code == 0 and "--held-out-pairs" in shown.output
    refused = CliRunner().invoke(app, ["train", "--out", str(tmp_path), "--batch", "0"])
    assert refused.exit_code == 2
