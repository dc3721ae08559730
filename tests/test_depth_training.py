# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training of MVSAnywhere: one step against plain formulas, resuming, mirrors, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("safetensors")

from rgbd_scene import pose, write_folder  # noqa: E402
from test_depth_batches import landing  # noqa: E402

from pyloc_core.models.mvsanywhere.variants import MVSAnywhereDot, MVSAnywhereHero  # noqa: E402
from pyloc_core.training import DepthOptions, RenderedScenes, train_depth  # noqa: E402
from pyloc_core.training.__main__ import main  # noqa: E402
from pyloc_core.training.depth_batches import DepthBatches, plain_tuple  # noqa: E402
from pyloc_core.training.depth_command import SMALL  # noqa: E402
from pyloc_core.training.depth_task import DepthJudge, DepthTask  # noqa: E402
from pyloc_core.training.distributed import Processes  # noqa: E402
from pyloc_core.training.loop import _Run  # noqa: E402

ONE = Processes(0, 1, torch.device("cpu"))
TINY = {
    "backbone": (16, 4, 2),
    "width": 8,
    "matching_channels": 4,
    "matching_width": 8,
    "num_depths": 8,
}
SIZE = (32, 48)


@cache
def scenes(seed: int = 1, count: int = 4, sky: float = 0.5) -> RenderedScenes:
    return RenderedScenes(count=count, views=3, size=SIZE, seed=seed, sky=sky)


def network(kind: type = MVSAnywhereDot, seed: int = 0) -> MVSAnywhereDot | MVSAnywhereHero:
    return kind(**TINY, seed=seed)


def options(**changed: object) -> DepthOptions:
    values = {
        "batch": 2,
        "accumulation": 1,
        "sources": 2,
        "epochs": 2,
        "patience": 50,
        "log_every": 1,
    }
    return DepthOptions.from_dict({**values, **changed})


def run(folder: Path, model: object = None, resume: bool = False, **changed: object):
    model = model or network()
    outcome = train_depth(
        model, scenes(), scenes(2, 2), folder, options(**changed), device="cpu", resume=resume,
        progress_bar=False, tensorboard=False,
    )  # fmt: skip
    return model, outcome


def around(values: torch.Tensor, r: int, stride: int = 1) -> torch.Tensor:
    """(h, w, 2r+1, 2r+1, ...) windows of (H, W, ...), edges repeated, by indices."""
    index = []
    for n in values.shape[:2]:
        at = torch.arange(0, n, stride)[:, None] + torch.arange(-r, r + 1)
        index.append(at.clamp(0, n - 1))
    return values[index[0][:, None, :, None], index[1][None, :, None, :]]


def filtered(values: torch.Tensor, kernel: torch.Tensor, stride: int = 1) -> torch.Tensor:
    return torch.einsum("hwij...,ij->hw...", around(values, len(kernel) // 2, stride), kernel)


SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64) / 8


def plain_losses(log_depths, logits, depth, sky, K) -> torch.Tensor:
    """The recipe's sum for one image, float64: networks of four scales (h, w), depth (H, W)."""
    h, w = depth.shape
    known, total = depth > 0, torch.zeros((), dtype=torch.float64)
    truth = torch.where(known, depth, 1.0)
    y, x = torch.arange(h)[:, None], torch.arange(w)
    for i, (values, logit) in enumerate(zip(log_depths, logits)):
        at = (y * values.shape[0] // h, x * values.shape[1] // w)
        error = (values[at] - truth.log()).abs()[known].sort().values
        keep = len(error) - int(0.2 * len(error)) if 2 * len(error) < h * w else len(error)
        p = torch.sigmoid(logit[at])
        cross = -torch.where(sky, p, 1 - p).log().mean()
        total = total + (error[:keep].mean() + 0.1 * cross) / 2**i
    estimate, unknown = log_depths[0].exp(), (~known).double()
    pair = torch.stack([1 / (estimate + 1e-6), 1 / (truth + 1e-6)], -1)
    for level in range(4):
        if level:
            line = torch.tensor([1.0, 2, 1], dtype=torch.float64) / 4
            pair = filtered(pair, torch.outer(line, line), 2)
            unknown = around(unknown, 1, 2).amax((2, 3))
        use = around(unknown, 1).amax((2, 3)) == 0
        for kernel in (SOBEL, SOBEL.T):
            slope = filtered(pair, kernel)
            if use.any():
                total = total + (slope[..., 0] - slope[..., 1]).abs()[use].mean() / 2
    normals = []
    rays = torch.stack([x.expand(h, w) + 0.5, y.expand(h, w) + 0.5, torch.ones(h, w)], -1).double()
    rays = rays @ torch.linalg.inv(K).T
    for values in (estimate, truth):
        line = torch.exp(-(torch.arange(-2.0, 3, dtype=torch.float64) ** 2) / 8)
        points = filtered(values, torch.outer(line, line) / line.sum() ** 2)[..., None] * rays
        normal = torch.linalg.cross(filtered(points, SOBEL), filtered(points, SOBEL.T))
        normals.append(normal / normal.norm(dim=-1, keepdim=True))
    use = around((~known).double(), 3).amax((2, 3)) == 0
    return total + (0.5 * (1 - (normals[0] * normals[1]).sum(-1)))[use].mean()


@pytest.mark.parametrize("kind", [MVSAnywhereDot, MVSAnywhereHero])
def test_one_step_is_that_of_plain_float64_formulas(kind: type, tmp_path: Path) -> None:
    """Two parts of two tuples, mirrored and widened: gradients and AdamW's step, with a rate per part."""
    chosen = options(batch=4, accumulation=2, learning_rate=1e-3, mono_rate=3e-4, decoder_rate=5e-4,
                     weight_decay=0.1)  # fmt: skip
    model = network(kind)
    run_ = _Run(DepthTask(model), DepthBatches(scenes(), chosen), None, tmp_path, chosen, ONE)
    run_.model.train()
    batch = next(run_._batches())
    assert batch["mirror"].any() and not batch["mirror"].all()
    assert (batch["depth"] == 0).any()
    wide = DepthTask(copy.deepcopy(model).double()).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses, _ = run_._step(batch)

    total = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, 2), slice(2, 4)):
        own = {k: v[part].double() if v.is_floating_point() else v[part] for k, v in batch.items()}
        log_depths, logits = wide.predicted(own)
        for i in range(2):
            each = [[v[i, 0] for v in values] for values in (log_depths, logits)]
            total = (
                total
                + plain_losses(*each, own["depth"][i], own["sky"][i], own["K_reference"][i]) / 4
            )
    assert float(sum(losses.values())) == pytest.approx(total.item(), rel=2e-4)
    total.backward()
    rates = {"encoder": 3e-4, "cost_volume_net": 5e-4, "depth_decoder": 5e-4}
    seen = 0
    exact = dict(wide.network.named_parameters())
    for name, p in model.named_parameters():
        if exact[name].grad is None:
            assert p.grad is None and torch.equal(p, before[name])
            continue
        g = exact[name].grad
        scale = g.abs().max().clamp(min=1e-6)
        assert ((p.grad - g).abs().max() / scale) < 2e-2, name
        rate = rates.get(name.split(".")[0], 1e-3)
        g, old = p.grad.double(), before[name].double()
        moved = old * (1 - rate * 0.1) - rate * g / (g.abs() + 1e-8)
        np.testing.assert_allclose(p.detach().double(), moved, rtol=1e-5, atol=2e-7, err_msg=name)
        seen += int(p.numel())
    assert seen > 0.8 * sum(p.numel() for p in model.parameters())


def test_what_is_not_mirrored_is_the_network(tmp_path: Path) -> None:
    model = network().train()
    items = [plain_tuple(scene, 2) for scene in list(scenes())[:2]]
    batch = {k: torch.stack([item[k] for item in items]) for k in items[0]}
    log_depths, sky = DepthTask(model).predicted(batch)
    direct = model(
        batch["reference"], batch["sources"], batch["K_reference"], batch["K_sources"],
        batch["source_from_reference"], depth_range=(batch["near"], batch["far"]),
    )  # fmt: skip
    for one, other in zip(
        (*log_depths, *sky), (*direct.log_depths, *direct.sky_logits), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_mirrored_tuple_and_a_mirrored_network_agree() -> None:
    """For the volume of dot products: mirroring images, cameras and depth is mirroring the network's parts,
    up to the position of cells in transformers and uneven kernels, which both see alike."""
    from pyloc_core.training.depth_changes import mirrored

    model = network().eval()
    plain = {k: v[None] for k, v in plain_tuple(scenes()[0], 2).items()}
    turned = {k: v[None] for k, v in plain_tuple(mirrored(scenes()[0]), 2).items()}
    plain["mirror"] = torch.tensor([True])
    with torch.no_grad():
        one, other = (DepthTask(model).predicted(batch)[0] for batch in (plain, turned))
        unturned = DepthTask(model).predicted({**plain, "mirror": torch.tensor([False])})[0]
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b.flip(-1), rtol=1e-3, atol=1e-3)
    assert (one[0] - unturned[0]).abs().max() > 1e-2


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole, first = run(tmp_path / "whole", epochs=3)
    run(tmp_path / "parts", epochs=1)
    parts, second = run(tmp_path / "parts", network(seed=9), True, epochs=3)
    assert first.steps == second.steps == 6 and second.held_out == first.held_out[1:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"made with near_noise = 0\.5, not 0\.1"):
        run(tmp_path / "parts", resume=True, near_noise=0.1)


def test_parts_of_a_batch_are_the_whole_batch(tmp_path: Path) -> None:
    """Without BatchNorm, whose statistics are those of a part, sums differ by rounding only."""
    grads = []
    for accumulation in (1, 2):
        chosen = options(batch=4, accumulation=accumulation)
        run_ = _Run(
            DepthTask(network()), DepthBatches(scenes(), chosen), None, tmp_path, chosen, ONE
        )
        run_.model.eval()
        run_._step(next(run_._batches()))
        grads.append([p.grad for p in run_.model.parameters() if p.grad is not None])
    for one, two in zip(*grads, strict=True):
        assert (one - two).abs().max() <= 1e-3 * one.abs().max() + 1e-7


def test_command_trains_on_drawn_scenes_and_goes_on(tmp_path: Path, capsys) -> None:
    given = ["depth", "--out", str(tmp_path / "run"), "--network", "small-dot", "--size", "32", "48",
             "--scenes", "2", "--held-out-scenes", "1", "--views", "3", "--sources", "2", "--batch", "2",
             "--quiet", "--no-tensorboard", "--device", "cpu", "--published-sky"]  # fmt: skip
    assert main([*given, "--epochs", "1"]) == 0
    assert "1 steps" in capsys.readouterr().out
    assert main([*given, "--epochs", "2", "--resume"]) == 0
    out = capsys.readouterr().out
    assert "2 steps" in out and "held-out relative error" in out
    start = ["--start", str(tmp_path / "run" / "best.safetensors"), "--epochs", "1"]
    again = [*given[:2], str(tmp_path / "second"), *given[3:], *start]
    assert main(again) == 0
    for wrong, named in (
        (["--size", "30", "48"], "size"), (["--network", "tiny"], "network"),
        (["--frames", str(tmp_path)], "held-out-frames"), (["--batch", "3"], "accumulation"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main([*given, *wrong]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error:") and named in error and error.count("\n") == 1


def test_frames_of_a_folder_are_scenes(tmp_path: Path) -> None:
    from pyloc_core.training.frame_scenes import FrameScenes

    write_folder(tmp_path / "a", [pose(0.25 * i - 0.5, 0.02 * i) for i in range(4)])
    found = FrameScenes([tmp_path / "a"], size=(48, 64), sources=2)
    assert len(found) + found.left_out == 4 and len(found) >= 2
    scene = found[0]
    assert scene.images.shape == (3, 48, 64, 3) and scene.sky is None
    item = plain_tuple(scene, 2)
    # Depth, intrinsics and poses of the resized images agree: the surface lies where the source has it.
    xy, z = landing(item, 0)
    inside = ((xy > 2) & (xy < [62, 46])).all(-1) & (item["depth"].numpy() > 0)
    column, row = np.floor(xy[inside]).astype(int).T
    there = scene.depth[1][row, column]
    close = np.abs(there - z[inside]) < 0.02 * z[inside]
    assert inside.mean() > 0.5 and close.mean() > 0.9
    with pytest.raises(ValueError, match="has 9 sources"):
        FrameScenes([tmp_path / "a"], sources=9)


@pytest.mark.parametrize("kind", [MVSAnywhereDot, MVSAnywhereHero])
def test_a_step_in_bfloat16_is_near_that_in_float32(kind: type, tmp_path: Path) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        chosen = options(precision=precision)
        model = network(kind)
        run_ = _Run(DepthTask(model), DepthBatches(scenes(), chosen), None, tmp_path, chosen, ONE)
        run_.model.train()
        losses, norm = run_._step(next(run_._batches()))
        assert all(value.dtype == torch.float32 for value in losses.values())
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        found.append([*(float(value) for value in losses.values()), float(norm)])
    assert found[1][:-1] == pytest.approx(found[0][:-1], rel=0.05)
    assert found[1][-1] == pytest.approx(found[0][-1], rel=0.5)


def test_held_out_scenes_without_depth_are_passed_over() -> None:
    """One empty map of a sensor must not end a run after its first epoch, nor make its error NaN."""
    known = scenes(2, 2)[0]
    empty = replace(known, depth=np.zeros_like(known.depth))
    task = DepthTask(network()).eval()

    def judged(held_out: list) -> float:
        return DepthJudge(held_out, sources=2, batch=1)(task, lambda f, batch: f(batch), ONE)[0]

    assert np.isfinite(judged([known])) and judged([empty, known]) == judged([known])
    with pytest.raises(ValueError, match="held-out"):
        judged([empty])


@pytest.mark.slow
def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streets with other textures and houses: the mean |ln d - ln d*| in the known range halves, the training
    loss falls by a third, and sources of other scenes spoil it. benchmarks/depth_training.py goes further."""
    steps, common = 156, {"views": 3, "size": (64, 96), "kinds": ("street",)}
    model = MVSAnywhereDot(**SMALL)
    chosen = options(
        batch=4, epochs=steps // 12, learning_rate=1.5e-3, mono_rate=1e-3, decoder_rate=1e-3,
        first_drop=int(0.7 * steps), second_drop=int(0.9 * steps), fade_steps=steps,
        final_share=0.02, clip_norm=1.0, jitter=0.1,
    )  # fmt: skip
    items = [plain_tuple(scene, 2) for scene in RenderedScenes(count=12, seed=2, **common)]
    batch = {k: torch.stack([item[k] for item in items]) for k in items[0]}

    def error(**changed: torch.Tensor) -> float:
        with torch.no_grad():
            found = DepthTask(model).eval().estimated({**batch, **changed}, known_range=True)
        return (found.log_depth - batch["depth"].log()).abs().mean().item()

    before, step, losses = error(), _Run._step, []

    def noted(self: _Run, batch: dict) -> tuple:
        found = step(self, batch)
        losses.append(float(sum(found[0].values())))
        return found

    monkeypatch.setattr(_Run, "_step", noted)
    train_depth(
        model, RenderedScenes(count=48, seed=1, **common), RenderedScenes(count=1, seed=3, **common),
        tmp_path, chosen, device="cpu", progress_bar=False, tensorboard=False,
    )  # fmt: skip
    after, wrong = error(), error(sources=batch["sources"].roll(1, 0))
    first, last = np.mean(losses[:20]), np.mean(losses[-20:])
    print(
        f"|ln| {before:.2f} -> {after:.2f}, other sources {wrong:.2f}; loss {first:.2f} -> {last:.2f}"
    )
    assert len(losses) == steps and last < 0.67 * first
    assert after < 0.5 * before
    assert wrong > 1.1 * after
