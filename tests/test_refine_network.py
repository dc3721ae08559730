# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of a depth network by SfM: what changes, what must not, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core.depth import (
    RefinementOptions,
    SfmView,
    StepOptions,
    refine_network,
    sfm_depth_loss,
)
from pyloc_core.depth.sfm_supervision import nearest_cells

torch = pytest.importorskip("torch")
nn = torch.nn

SIZE = (24, 32)
QUICK = RefinementOptions(steps=12, learning_rate=1e-2)


class Small(nn.Module):
    """An encoder with BatchNorm and dropout, a decoder, and a part that is never used."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
        )
        self.decoder = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 1, 3, padding=1))
        self.spare = nn.Linear(2, 2)

    def forward(self, image):
        return 2.0 + 10.0 * torch.sigmoid(self.decoder(self.encoder(image)))


def scene(views: int = 4, points: int = 40, seed: int = 0):
    """Images, and sparse depths that are 0.2 times what a steeper network would say."""
    rng = np.random.default_rng(seed)
    images, found = {}, []
    for i in range(views):
        name = f"{i}.png"
        image = rng.uniform(0, 1, (1, 3, *SIZE)).astype(np.float32)
        image[0, 0] = np.linspace(0, 1, SIZE[0])[:, None]
        images[name] = torch.from_numpy(image)
        xy = rng.uniform(0, 1, (points, 2)) * SIZE[::-1]
        depths = 0.2 * (5 + 5 * xy[:, 1] / SIZE[0]) * rng.uniform(0.97, 1.03, points)
        found.append(SfmView(name, SIZE, xy, depths, rng.uniform(0.1, 1.0, points)))
    return images, tuple(found)


def refined(network, views, images, *, options=QUICK, part=None):
    """Refined without a bar: all parameters, or those of a part."""
    parameters = (network if part is None else getattr(network, part)).parameters()
    return refine_network(network, parameters, views, images, options=options, progress=False)


def snapshot(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def changed(before, module):
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


def test_the_loss_falls_and_only_the_encoder_changes():
    images, views = scene()
    network = Small()
    network.decoder.eval()  # a mixture of modes that must come back
    network.encoder[0].weight.grad = torch.ones_like(network.encoder[0].weight)
    network.decoder[1].bias.requires_grad_(False)
    before = snapshot(network)
    options = RefinementOptions(steps=40, learning_rate=1e-2)
    done = refine_network(
        network, network.encoder.parameters(), views, images, options=options, progress=False
    )
    assert done.losses.shape == (40,) and done.losses[-4:].mean() < 0.6 * done.losses[:4].mean()
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    assert changed(before, network) == {f"encoder.{name}" for name in names}
    assert network.training and network.encoder.training and not network.decoder.training
    assert not network.decoder[1].bias.requires_grad and network.decoder[1].weight.requires_grad
    assert torch.equal(network.encoder[0].weight.grad, torch.ones_like(network.encoder[0].weight))
    assert network.decoder[1].weight.grad is None
    done.restore()
    assert not changed(before, network)


def test_batchnorm_is_still_by_default_and_moves_as_published():
    images, views = scene()
    network = Small()
    before = snapshot(network)
    refine_network(
        network, network.encoder.parameters(), views, images, options=QUICK, progress=False
    )
    assert not any("running" in k or "tracked" in k for k in changed(before, network))
    network.load_state_dict(before)
    published = RefinementOptions.published(steps=12, learning_rate=1e-2)
    assert published.trials == 20 and published.align_corners and published.published_indexing
    done = refine_network(
        network, network.encoder.parameters(), views, images, options=published, progress=False
    )
    moved = changed(before, network)
    assert {"encoder.1.running_mean", "encoder.1.running_var", "decoder.0.running_mean"} <= moved
    assert len(done.alignment.samples) == 20
    done.restore()  # also what the predictions for the alignment moved
    assert not changed(before, network)


def test_restoring_brings_the_buffers_back():
    images, views = scene()
    network = Small().eval()
    before = snapshot(network)
    options = RefinementOptions(steps=3, train_mode=True)
    done = refined(network, views, images, options=options)
    assert "decoder.0.running_var" in changed(before, network) and not network.training
    done.restore()
    assert not changed(before, network)


@pytest.mark.parametrize("train_mode", [False, True])
def test_the_same_seed_gives_the_same_bits(train_mode):
    images, views = scene()

    def run(seed, noise):
        network = Small()
        torch.manual_seed(noise)  # whatever the caller's generator does
        options = RefinementOptions(
            steps=9, learning_rate=1e-2, seed=seed, train_mode=train_mode, trials=20
        )
        state = torch.get_rng_state()
        done = refine_network(
            network, network.parameters(), views, images, options=options, progress=False
        )
        assert torch.equal(torch.get_rng_state(), state)
        return done, snapshot(network)

    (a, weights), (b, same), (c, _) = run(1, 0), run(1, 5), run(2, 0)
    np.testing.assert_array_equal(a.losses, b.losses)
    assert all(torch.equal(v, same[k]) for k, v in weights.items())
    assert a.visited == b.visited and (a.visited != c.visited or (a.losses != c.losses).any())
    assert all(set(a.visited[k : k + 4]) == set(images) for k in (0, 4))  # epochs


def test_the_loss_by_hand():
    y, t, e = (
        torch.tensor([1.0, 5.0, 2.0]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([0.0, 1, 2]),
    )
    expected = (1 + np.exp(-1) + 4 * np.exp(-4)) / 3
    assert float(sfm_depth_loss(y, t, 2.0, e)) == pytest.approx(expected, rel=1e-6)
    assert float(sfm_depth_loss(y, t, 2.0)) == pytest.approx(2.0)
    images, views = scene(views=1)
    flat = nn.Conv2d(3, 1, 1)  # the first loss is that of the network as it was
    with torch.no_grad():
        flat.weight.zero_()
        flat.bias.fill_(7.0)
    done = refine_network(
        flat, [flat.bias], views, images, options=RefinementOptions(steps=1), progress=False
    )
    view = done.views[0]
    residual = np.abs(7.0 - done.scale * view.depths) * np.exp(-(view.errors**2))
    assert done.losses[0] == pytest.approx(residual.mean(), rel=1e-5)
    uniform = RefinementOptions(steps=1, weights="uniform")
    done.restore()
    done = refine_network(flat, [flat.bias], views, images, options=uniform, progress=False)
    assert done.losses[0] == pytest.approx(np.abs(7.0 - done.scale * view.depths).mean(), rel=1e-5)


def test_which_cell_a_pixel_reads():
    xy = [[0.0, 0.0], [3.99, 0.5], [4.0, 1.0], [7.99, 5.99], [8.0, 6.0]]
    np.testing.assert_array_equal(nearest_cells(xy, (6, 8), (3, 2)), [0, 0, 1, 5, 5])
    # x / 8 * 1 rounded, y / 6 * 2 rounded
    corners = nearest_cells(xy, (6, 8), (3, 2), align_corners=True)
    np.testing.assert_array_equal(corners, [0, 0, 0, 5, 5])
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1, (500, 2)) * [80, 60]
    grid = torch.from_numpy(2 * xy / [80, 60] - 1)[None, None]
    depth = torch.arange(15 * 33, dtype=torch.float64).reshape(1, 1, 15, 33)
    for corners in (False, True):
        read = nn.functional.grid_sample(depth, grid, mode="nearest", align_corners=corners)
        cells = nearest_cells(xy, (60, 80), (15, 33), align_corners=corners)
        np.testing.assert_array_equal(cells, read.flatten().numpy())


def test_images_without_points_and_the_published_indexing():
    """Dataset length of the published program: images with points; its items: the first of all images."""
    images, views = scene()
    empty = SfmView("0.png", SIZE, np.zeros((0, 2)), [], [])
    views = (empty, *views[1:])
    network = Small().eval()
    done = refined(network, views, images, options=QUICK)
    assert set(done.visited) == {"1.png", "2.png", "3.png"}
    done.restore()
    options = RefinementOptions(steps=12, published_indexing=True)
    done = refined(network, views, images, options=options)
    assert set(done.visited) == {"0.png", "1.png", "2.png"}
    assert (done.losses == 0).sum() == 4


def test_functions_depth_maps_and_any_resolution():
    images, views = scene()
    network = Small()

    def half(image):
        """As an adapter of a published network: preprocessing, another resolution, (H, W)."""
        x = nn.functional.interpolate(image - 0.5, scale_factor=0.5)
        return network(x)[0, 0]

    done = refine_network(
        half, network.encoder.parameters(), views, images, modules=[network], options=QUICK,
        depth_maps=True, progress=False,
    )  # fmt: skip
    assert set(done.depth_maps) == set(images)
    network.eval()
    with torch.no_grad():
        assert torch.equal(done.depth_maps["2.png"], half(images["2.png"]))
    assert done.depth_maps["2.png"].shape == (12, 16)
    with pytest.raises(ValueError, match="modules="):
        refine_network(half, network.encoder.parameters(), views, images, progress=False)


def test_double_precision_follows_the_gradient():
    """One step of Adam moves every parameter by the rate against the sign of its gradient."""
    images, views = scene()
    images = {k: v.double() for k, v in images.items()}
    network = Small().double().eval()
    before = snapshot(network)
    options = RefinementOptions(steps=1, learning_rate=1e-3)
    done = refined(network, views, images, options=options, part="decoder")
    step = network.decoder[1].bias - before["decoder.1.bias"]
    assert abs(float(step.detach().item())) == pytest.approx(1e-3, rel=1e-3)
    done.restore()
    view = next(v for v in done.views if v.name == done.visited[0])
    cells = torch.from_numpy(nearest_cells(view.xy, SIZE, SIZE))

    def loss():
        depth = network(images[view.name]).flatten()[cells]
        t, e = torch.from_numpy(view.depths), torch.from_numpy(view.errors)
        return float(sfm_depth_loss(depth, t, done.scale, e))

    with torch.no_grad():
        here = loss()
        network.decoder[1].bias += 1e-6
        assert here == pytest.approx(done.losses[0], rel=1e-12)
        assert np.sign(loss() - here) == -np.sign(float(step.detach().item()))


def test_progress_bar(capsys):
    pytest.importorskip("tqdm")
    images, views = scene(2)
    network = Small()
    refine_network(network, network.parameters(), views, images, options=QUICK)
    assert "Refining" in capsys.readouterr().err


def raises(error, words, **change):
    images, views = scene(2)
    network = Small().eval()
    before = snapshot(network)
    given = {
        "network": network, "parameters": network.parameters(), "sfm_model": views,
        "images": images, "options": QUICK, "progress": False,
    } | change  # fmt: skip
    with pytest.raises(error, match=words):
        refine_network(**given)
    assert not changed(before, network)


def test_bad_input():
    images, views = scene(2)
    raises(ValueError, "parameters is empty", parameters=[])
    raises(TypeError, "several tensors", parameters=torch.zeros(3))
    raises(TypeError, "leaf", parameters=[nn.Parameter(torch.zeros(3)) * 2])
    raises(TypeError, "floating point", parameters=[torch.zeros(3, dtype=torch.int64)])
    raises(ValueError, "does not depend", parameters=[nn.Parameter(torch.zeros(3))])
    raises(ValueError, "images is empty", images={})
    raises(ValueError, "lacks 0.png", images={"1.png": images["1.png"]})
    raises(TypeError, "mapping or a folder", images=list(images.values()))
    raises(TypeError, "SfmViews", sfm_model=[1, 2])
    raises(TypeError, "RefinementOptions", options=StepOptions())
    raises(TypeError, "callable", network=3)
    empty = tuple(v.select(slice(0)) for v in views)
    raises(ValueError, "no scale.*0 of 0", sfm_model=empty)
    raises(ValueError, "no scale", sfm_model=tuple(v.select(slice(1)) for v in views))
    for value, words in (
        (0.0, "network_depths must be positive"),
        (np.nan, "network_depths holds NaN"),
    ):
        raises(ValueError, words, network=lambda x, v=value: x[0, :1] * v, modules=[])
    raises(ValueError, "one depth map", network=lambda x: x, modules=[])
    raises(TypeError, "torch tensor", network=lambda x: x.numpy()[0, 0], modules=[])


def test_a_loss_that_is_not_finite_restores_the_network():
    images, views = scene(2)
    network = Small().eval()
    before = snapshot(network)
    calls = []

    def breaks(image):
        calls.append(1)
        depth = network(image)
        return depth * float("nan") if len(calls) > 6 else depth

    with pytest.raises(FloatingPointError, match="step 4"):
        refine_network(
            breaks, network.parameters(), views, images, modules=[network], options=QUICK,
            progress=False,
        )  # fmt: skip
    assert not changed(before, network)


def test_a_gradient_that_is_not_finite_in_the_last_step_restores_the_network():
    images, views = scene(2)
    network = Small().eval()
    before = snapshot(network)

    def steep(image):  # a finite depth; the root's slope at 0 is infinite, times 0 is NaN
        depth = network(image)
        return depth + (depth - depth).sqrt()

    with pytest.raises(FloatingPointError, match="parameters"):
        refine_network(
            steep, network.parameters(), views, images, modules=[network],
            options=RefinementOptions(steps=1), progress=False,
        )  # fmt: skip
    assert not changed(before, network)


def test_a_failure_in_the_depth_maps_restores_the_network():
    images, views = scene(2)
    views = (*views, SfmView("no points.png", SIZE, np.zeros((0, 2)), np.zeros(0), np.zeros(0)))
    network = Small().eval()
    before = snapshot(network)
    images["no points.png"] = torch.zeros(1, 4, *SIZE)  # looked at for its depth map alone
    with pytest.raises(RuntimeError):
        refine_network(
            network, network.parameters(), views, images, options=QUICK, depth_maps=True,
            progress=False,
        )  # fmt: skip
    assert not changed(before, network)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"seed": -1}, ValueError, "seed"),
        ({"train_mode": 1}, TypeError, "train_mode"),
        ({"weights": "unifrom"}, ValueError, "did you mean 'uniform'"),
        ({"estimator": "median"}, ValueError, "estimator"),
        ({"supervision": "relax"}, ValueError, "did you mean 'relaxed'"),
        ({"threshold": -1}, ValueError, "threshold"),
        ({"trials": 0}, ValueError, "trials"),
        ({"step": 3}, TypeError, "step"),
    ],
)
def test_bad_options(change, error, words):
    with pytest.raises(error, match=words):
        RefinementOptions(**change)
