# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training for place recognition: recall rises, an interrupted run has the same bits, the recipe's schedule."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("safetensors")
pytest.importorskip("pytorch_metric_learning")

from torch import nn  # noqa: E402

from pyloc_core.models.dinov2 import DINOv2, ViTSize  # noqa: E402
from pyloc_core.models.mixer_head import MixerHead  # noqa: E402
from pyloc_core.models.place_network import PlaceNetwork, SmallBackbone  # noqa: E402
from pyloc_core.models.salad.head import SALADHead  # noqa: E402
from pyloc_core.training import PlaceOptions, train_places  # noqa: E402
from pyloc_core.training.distributed import Processes  # noqa: E402
from pyloc_core.training.pictures import PictureArrays, PictureTable  # noqa: E402
from pyloc_core.training.place_batches import MinedPlaces  # noqa: E402
from pyloc_core.training.place_loss import PlaceLoss  # noqa: E402
from pyloc_core.training.place_recall import RecallJudge, recalls  # noqa: E402
from pyloc_core.training.street_scenes import StreetScenes  # noqa: E402

SIDE = 24
ONE = Processes(0, 1, torch.device("cpu"))


def network(seed: int = 0, dropout: float = 0.0, head: str = "mixer") -> nn.Module:
    backbone = SmallBackbone((8, 16), seed=seed)
    if head == "salad":
        return PlaceNetwork(
            backbone,
            SALADHead(16, num_clusters=8, cluster_dim=8, token_dim=8, hidden=32, seed=seed + 1),
        )
    mixer = MixerHead(16, (6, 6), channels_out=8, rows_out=4, depth=1, seed=seed + 1)
    mixer.project_channels = nn.Sequential(nn.Dropout(dropout), mixer.project_channels)
    return PlaceNetwork(backbone, mixer)


@cache
def city(seed: int, streets: int = 8) -> PictureTable:
    return StreetScenes(streets=streets, size=SIDE, seed=seed, pixels_per_metre=0.5).places(5)


@cache
def mined() -> MinedPlaces:
    """Places along the streets of another city, put together by hand: spots 30 m apart."""
    table = StreetScenes(streets=4, size=SIDE, seed=7, pixels_per_metre=0.5).drives()
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(6):
        east = table.positions[:, 0]
        street = rng.integers(4)
        spots = rng.permutation(np.arange(10, 190, 30))[:2]
        own = [
            np.flatnonzero((abs(east - s) < 10) & (table.positions[:, 1] == 1000 * street))
            for s in spots
        ]
        batches.append([rng.permutation(o)[:3] for o in own])
    return MinedPlaces(table, np.array(batches))


def options(**changed: object) -> PlaceOptions:
    values = {"places": 5, "images": 3, "image_size": SIDE, "epochs": 2, "learning_rate": 2e-3,
              "operations": 1, "decay_steps": 50, "log_every": 1, "patience": 50}  # fmt: skip
    return PlaceOptions.from_dict({**values, **changed})


def run(folder: Path, model: nn.Module | None = None, resume: bool = False, mixed: bool = False,
        **changed: object):  # fmt: skip
    model = model or network(dropout=0.2)
    outcome = train_places(
        model, city(1), city(2, 4), folder, options(**changed), device="cpu", resume=resume,
        mined=mined() if mixed else None, progress_bar=False, tensorboard=False,
    )  # fmt: skip
    return model, outcome


@pytest.mark.parametrize("head", ["mixer", "salad"])
def test_recall_rises(head: str, tmp_path: Path) -> None:
    """Not the loss on what is seen: recall on another city."""
    judge = RecallJudge(city(2), size=SIDE)
    chosen = options(epochs=12, places=8, operations=0, learning_rate=3e-3)
    before, _ = judge(PlaceLoss(network(head=head).eval(), chosen), lambda f, x: f(x), ONE)
    outcome = train_places(
        network(head=head), city(1, 32), city(2), tmp_path, chosen, device="cpu",
        progress_bar=False, tensorboard=False,
    )  # fmt: skip
    assert 1 - before < 0.5 and 1 - outcome.best > 1 - before + 0.08
    assert outcome.best == min(outcome.held_out) and outcome.steps == 96
    # The best weights give the best recall again.
    from safetensors.torch import load_file

    best = network(head=head)
    best.load_state_dict(load_file(tmp_path / "best.safetensors"))
    again, values = judge(PlaceLoss(best.eval(), options()), lambda f, x: f(x), ONE)
    assert again == outcome.best and values["recall_at_1"] == pytest.approx(1 - again)


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    """With dropout, random changes, both sources: every generator depends on the step alone."""
    whole, first = run(tmp_path / "whole", mixed=True, epochs=3)
    run(tmp_path / "parts", mixed=True, epochs=1)
    torch.manual_seed(1234)
    other = network(seed=9, dropout=0.2)
    parts, second = run(tmp_path / "parts", other, True, mixed=True, epochs=3)
    assert first.steps == second.steps > 6 and second.held_out == first.held_out[1:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_resume_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyloc_core.training import loop

    whole, _ = run(tmp_path / "whole")
    step, count = loop._Run._step, iter(range(100))

    def interrupted(self: object, batch: object) -> object:
        if next(count) == 4:
            raise KeyboardInterrupt
        return step(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", checkpoint_every=1)
    kept = torch.load(tmp_path / "cut/state.pt", weights_only=True)
    assert kept["progress"]["step"] == 4 and kept["progress"]["step_in_epoch"] == 1
    parts, _ = run(tmp_path / "cut", network(seed=9, dropout=0.2), True, checkpoint_every=1)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    with pytest.raises(ValueError, match="made with places = 5, not 4"):
        run(tmp_path / "cut", resume=True, places=4)
    with pytest.raises(ValueError, match=r"sources = \['5 of 16 places, 80 .*'3 of 16 .* mined"):
        run(tmp_path / "cut", network(dropout=0.2), resume=True, mixed=True)


def test_dropout_draws_anew_in_every_step_and_leaves_the_global_generator(tmp_path: Path) -> None:
    drawn: list[torch.Tensor] = []

    class Noted(nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                drawn.append(super().forward(torch.ones(50)))
            return super().forward(x)

    model = network()
    model.head.project_channels[0] = Noted(0.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run(tmp_path, model, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(drawn) == 3 and len({tuple(d.tolist()) for d in drawn}) == 3


def test_mixed_precision_is_near_full(tmp_path: Path) -> None:
    full, _ = run(tmp_path / "full", network(), epochs=1)
    half, _ = run(tmp_path / "half", network(), epochs=1, precision="bfloat16")
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        distance = (full.eval()(images) - half.eval()(images)).norm(dim=1)
    assert 0 < float(distance.max()) < 0.3
    assert all(p.dtype == torch.float32 for p in half.parameters())
    with pytest.raises(ValueError, match="float16 needs CUDA"):
        run(tmp_path / "no", precision="float16")


def test_scalars_are_written_and_the_schedule_is_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen = options(epochs=2, decay_steps=4, learning_rate=1e-3)
    train_places(network(), city(1), city(2, 4), tmp_path, chosen, mined=mined(), device="cpu",
                 progress_bar=False)  # fmt: skip
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"train/places", "train/mined", "held_out/recall_at_1", "held_out/recall_at_5"} <= set(
        events.Tags()["scalars"]
    )
    rates = [e.value for e in events.Scalars("train/rate")]
    np.testing.assert_allclose(rates[:6], [1e-3, 8e-4, 6e-4, 4e-4, 2e-4, 2e-4], rtol=1e-6)
    usual = PlaceOptions()
    assert [usual.rate(0, 0), usual.rate(1, 2000), usual.rate(3, 9999)] == pytest.approx(
        [6e-5, 3.6e-5, 1.2e-5]
    )
    made = usual.optimizer([nn.Parameter(torch.ones(1))])
    assert type(made) is torch.optim.AdamW and made.defaults["weight_decay"] == 9.5e-9
    assert (usual.places, usual.images, usual.image_size, usual.epochs) == (60, 4, 224, 4)
    assert usual.on("cuda").precision == "float16" and usual.on("cpu").precision == "float32"
    assert options(precision="bfloat16").on("cuda").precision == "bfloat16"
    assert (usual.alpha, usual.beta, usual.base, usual.margin) == (1, 50, 0, 0.1)


def test_mined_batches_take_their_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave 1 of 3"):
        run(tmp_path, mixed=True, places=3)
    with pytest.raises(ValueError, match="batch of 50 places is more than the 16 places"):
        run(tmp_path, places=50)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"places": 1}, ValueError), ({"images": 1}, ValueError), ({"beta": 0.0}, ValueError),
        ({"final_share": 1.5}, ValueError), ({"margin": float("nan")}, ValueError),
        ({"weight_decay": -1.0}, ValueError), ({"base": "0"}, TypeError), ({"epochs": 0}, ValueError),
        ({"clip_norm": 0.0}, ValueError), ({"judged_size": -1}, ValueError),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(bad: dict, error: type) -> None:
    with pytest.raises(error, match=next(iter(bad))):
        PlaceOptions(**bad)
    with pytest.raises(TypeError, match="PlaceOptions has no option 'plces'; did you mean places"):
        PlaceOptions.from_dict({"plces": 3})


def test_the_last_blocks_of_a_transformer_are_trained(tmp_path: Path) -> None:
    """DINOv2 in small, with the head of SALAD: what is frozen keeps its bits, the rest moves."""
    trunk = DINOv2(ViTSize(32, 3, 2), trainable_blocks=1, seed=1)
    head = SALADHead(32, num_clusters=4, cluster_dim=8, token_dim=8, hidden=16, seed=2)
    model = PlaceNetwork(trunk, head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = options(image_size=56, epochs=1)
    train_places(model, city(1), city(2, 4), tmp_path, chosen, device="cpu", progress_bar=False,
                 tensorboard=False)  # fmt: skip
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    expected = {
        n for n in before if n.startswith(("backbone.blocks.2.", "backbone.norm.", "head."))
    }
    assert moved <= expected and len(moved) > 0.9 * len(expected)
    assert any("qkv" in n for n in moved) and any("score" in n for n in moved)


# --- recall ---


def pictures(count: int) -> PictureArrays:
    return PictureArrays(np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8))


def brute_recall(x: np.ndarray, right: np.ndarray, queries: list, database: list, k: int) -> float:
    hits = []
    for q in queries:
        others = [d for d in database if d != q]
        if not any(right[q, d] for d in others):
            continue
        nearest = sorted(others, key=lambda d: -float(x[q] @ x[d]))[:k]
        hits.append(any(right[q, d] for d in nearest))
    return float(np.mean(hits))


@pytest.mark.parametrize("with_roles", [False, True])
@pytest.mark.parametrize("with_positions", [False, True])
def test_recall_is_its_definition(with_roles: bool, with_positions: bool) -> None:
    rng = np.random.default_rng(3)
    n = 300
    x = rng.standard_normal((n, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    place, cities = rng.integers(0, 40, n), rng.integers(0, 2, n)
    place[:10] = -1
    xy, query = rng.uniform(0, 300, (n, 2)), rng.random(n) < 0.4
    if with_positions:
        right = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1)) <= 25
        right &= cities[:, None] == cities[None]
    else:
        right = (place[:, None] == place[None]) & (place >= 0)[:, None]
    judge = RecallJudge(
        PictureTable(pictures(n), place, xy, cities, query=query if with_roles else None),
        radius=25.0 if with_positions else None,
    )
    asked = np.flatnonzero(query).tolist() if with_roles else list(range(n))
    base = np.flatnonzero(~query).tolist() if with_roles else list(range(n))
    found = recalls(judge, torch.from_numpy(x))
    for k in (1, 5, 10):
        assert found[k] == pytest.approx(brute_recall(x, right, asked, base, k), abs=1e-12)
    assert judge.unanswerable + len(judge.queries) == len(asked) and judge.unanswerable > 0


def test_recall_needs_answers() -> None:
    with pytest.raises(ValueError, match="need places"):
        RecallJudge(PictureTable(pictures(4)))
    with pytest.raises(ValueError, match="need positions"):
        RecallJudge(PictureTable(pictures(4), np.arange(4)), radius=25.0)
    with pytest.raises(ValueError, match="no held-out query"):
        RecallJudge(PictureTable(pictures(4), np.arange(4)))
    few = RecallJudge(PictureTable(pictures(3), np.array([0, 0, 1])))  # fewer than 10 to find
    assert recalls(few, torch.eye(3))[10] == 1.0


def test_the_drawn_city_is_the_same_for_the_same_seed() -> None:
    made = [StreetScenes(streets=2, size=16, seed=s).drives(40.0) for s in (0, 0, 1)]
    pixels = [m.pictures.pixels for m in made]
    assert np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])
    assert len(set(made[0].sequences.tolist())) == 4
    assert json.dumps(made[0].positions.tolist()) == json.dumps(made[1].positions.tolist())
