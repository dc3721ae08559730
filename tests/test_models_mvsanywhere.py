# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSAnywhere on a small configuration: what its depth may and may not depend on. Its checkpoints are in
test_models_mvsanywhere_files.py, bad input and sequences in test_models_mvsanywhere_use.py."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvsanywhere_scene import SMALL, Scene, small, wall  # noqa: E402

from pyloc_core import models  # noqa: E402
from pyloc_core.models.mvsanywhere.cameras import checked_cameras  # noqa: E402

BOTH = pytest.mark.parametrize("name", ["mvsanywhere_dot", "mvsanywhere_hero"])


def predict(model: Any, scene: Scene, **options: Any) -> Any:
    with torch.inference_mode():
        return model(*scene, **options)


def log_ratio(a: Any, b: Any) -> float:
    """Largest |ln| of the ratio of two depth maps."""
    return float((a.double() / b.double()).log().abs().max())


@BOTH
def test_depth_lies_in_the_range_and_all_parts_have_their_shapes(name: str) -> None:
    scene = Scene.drawn(1, views=3, batch=2)
    found = predict(small(name), scene, return_volume=True, scales=4)
    assert found.depth.shape == found.log_depth.shape == found.sky.shape == (2, 64, 96)
    assert found.volume.shape == (2, 12, 16, 24) and found.planes.shape == (2, 12)
    assert found.mask.shape == found.lowest_cost.shape == (2, 16, 24)
    sizes = [(64, 96), (16, 24), (4, 6), (1, 1)]
    for each in (found.log_depths, found.sky_logits):
        assert [tuple(x.shape) for x in each] == [(2, 1, *size) for size in sizes]
    for b in range(2):
        assert found.near[b] < found.depth[b].min() < found.depth[b].max() < found.far[b]
        assert torch.allclose(found.planes[b, [0, -1]], torch.stack([found.near, found.far], 1)[b])
    torch.testing.assert_close(found.log_depth.exp(), found.depth)
    torch.testing.assert_close(found.log_depths[0][:, 0], found.log_depth)
    assert found.depth.std() > 1e-3 * found.depth.mean(), "the depth depends on the images"
    assert (found.masked_depth[found.sky] == 0).all()
    kept = ~found.sky
    assert torch.equal(found.masked_depth[kept], found.depth[kept])
    np.testing.assert_array_equal(found.depth_map(1), found.masked_depth[1].numpy())
    level = found.planes[:, None, None] - found.lowest_cost[..., None]
    assert (level.abs().min(-1).values == 0).all(), "the lowest cost is at a plane"


@BOTH
def test_one_pass_or_more(name: str) -> None:
    """Every pass narrows the range of the one before, or widens it by 2 at most; encoders run once."""
    model, scene = small(name), Scene.drawn(2, views=2)
    calls: list[str] = []
    hooks = [
        part.register_forward_hook(lambda *_, what=what: calls.append(what))
        for what, part in (("matching", model.matching_model), ("combiner", model.cost_volume_net))
    ]
    passes = [predict(model, scene, refinements=n) for n in range(3)]
    for hook in hooks:
        hook.remove()
    assert calls.count("matching") == 3 * 3, (
        "image by image: a reference and two sources, three times"
    )
    assert calls.count("combiner") == 1 + 2 + 3
    one, two, three = passes
    assert torch.equal(one.near, one.first_near) and torch.equal(one.far, one.first_far)
    for earlier, later in itertools.pairwise(passes):
        assert torch.equal(later.first_far, one.far)
        assert earlier.near / 2 <= later.near and later.far <= 2 * earlier.far
        assert later.far / later.near < earlier.far / earlier.near
    assert torch.equal(predict(model, scene).depth, two.depth), "two passes are the default"
    again = predict(model, scene, depth_range=(two.near, two.far), refinements=0)
    assert torch.equal(again.depth, two.depth), "nothing but the range is handed on"
    assert log_ratio(three.depth, two.depth) > 0


@BOTH
def test_order_of_the_sources_does_not_matter(name: str) -> None:
    model, scene = small(name).double(), Scene.drawn(3, views=5).double()
    expected = predict(model, scene, depth_range=(0.5, 9.0))
    other = predict(model, scene.picked([3, 0, 4, 2, 1]), depth_range=(0.5, 9.0))
    assert log_ratio(other.depth, expected.depth) < 1e-9
    assert torch.equal(other.mask, expected.mask)
    fewer = predict(model, scene.picked([3, 0, 4, 2]), depth_range=(0.5, 9.0))
    assert log_ratio(fewer.depth, expected.depth) > 1e-4, "but each of them counts"


@BOTH
def test_any_number_of_sources(name: str) -> None:
    """1 to 16 views; those beyond `num_valid` may hold anything."""
    model, scene = small(name), Scene.drawn(4, views=16, size=(32, 48))
    features = torch.cat([model.matching_features(each[None]) for each in scene.sources[0]])[None]
    of_reference, mono = (
        f(scene.reference) for f in (model.matching_features, model.mono_features)
    )

    def depth(views: int, num_valid: int | None = None) -> Any:
        K, poses = scene.K_sources[:, :views].clone(), scene.poses[:, :views].clone()
        given = features[:, :views].clone()
        if num_valid is not None:
            K[:, num_valid:] *= 3
            poses[:, num_valid:, :3, 3] += 7
            given[:, num_valid:] += 1e3
        cameras = checked_cameras(
            (scene.K_reference, K, poses), ((32, 48), (32, 48)), (1, views), num_valid,
            device=given.device,
        )  # fmt: skip
        with torch.inference_mode():
            return model.predict_from_features(of_reference, given, mono, cameras)

    found = {views: depth(views) for views in range(1, 17)}
    for views, each in found.items():
        assert torch.isfinite(each.depth).all()
        padded = depth(16, views) if views < 16 else each
        assert torch.equal(padded.depth, each.depth) and torch.equal(padded.mask, each.mask)
    assert all(log_ratio(found[n].depth, found[n + 1].depth) > 1e-5 for n in range(1, 16))
    whole = predict(model, scene, num_valid=[5])
    assert log_ratio(whole.depth, found[5].depth) < 1e-3


def test_scale_of_the_scene_dot() -> None:
    """Exact: to the bit for powers of two."""
    model, scene = small("mvsanywhere_dot"), Scene.drawn(5, views=3)
    expected = predict(model, scene, return_volume=True)
    for factor in (2.0**-9, 2.0, 2.0**12):
        found = predict(model, scene.scaled(factor), return_volume=True)
        assert torch.equal(found.volume, expected.volume)
        assert torch.equal(found.depth, factor * expected.depth)
        assert torch.equal(found.sky, expected.sky) and torch.equal(found.mask, expected.mask)
    model, scene = model.double(), scene.double()
    expected = predict(model, scene)
    found = predict(model, scene.scaled(100.0))
    assert log_ratio(found.depth, 100 * expected.depth) < 1e-9


def test_scale_of_the_scene_hero() -> None:
    """The published pose distance mixes lengths and angles; with normalised translations it is exact."""
    scene = Scene.drawn(5, views=3).double()
    drift = {}
    for invariant in (False, True):
        model = small("mvsanywhere_hero", scale_invariant=invariant).double()
        expected = predict(model, scene).depth
        drift[invariant] = log_ratio(predict(model, scene.scaled(100.0)).depth, 100 * expected)
    assert drift[True] < 1e-9 < 1e-4 < drift[False] < 1.0


@BOTH
def test_a_batch_is_its_single_images(name: str) -> None:
    model, scene = small(name).double(), Scene.drawn(6, views=3, batch=3).double()
    together = predict(model, scene, num_valid=[3, 1, 2])
    for b, count in enumerate((3, 1, 2)):
        alone = predict(model, scene.item(b).picked(range(count)))
        assert log_ratio(together.depth[b], alone.depth[0]) < 1e-9
        assert torch.allclose(together.far[b], alone.far[0], rtol=1e-12)


@BOTH
def test_sides_that_are_no_multiples_of_16(name: str) -> None:
    """The last row and column are repeated right and below; intrinsics and range are the image's own."""
    model, scene = small(name).double(), Scene.drawn(7, views=2, size=(70, 89)).double()
    found = predict(model, scene)
    assert found.depth.shape == (1, 70, 89) and found.log_depths[0].shape == (1, 1, 80, 96)
    wide = scene.filled(80, 96)
    first = (found.first_near, found.first_far)
    by_hand = predict(model, wide, depth_range=first, refinements=0)
    one_pass = predict(model, scene, refinements=0)
    assert log_ratio(one_pass.depth, by_hand.depth[:, :70, :89]) < 1e-12
    baselines = scene.poses[0, :, :3, 3].norm(dim=1)
    focal = scene.K_sources[0, 0, 0, 0]
    torch.testing.assert_close(first[0][0], baselines.min() * focal / 89)
    torch.testing.assert_close(first[1][0], baselines.max() * focal / 0.89)
    assert not torch.equal(found.mask, predict(model, wide, depth_range=(0.5, 9.0)).mask)


def test_sources_of_another_size() -> None:
    """Twice the resolution for the sources: the same rays, nearly the same depth."""
    model = small("mvsanywhere_dot")
    image, sources, poses, K = wall(2.0, (64, 96))
    fine = torch.nn.functional.interpolate(sources, scale_factor=2.0, mode="nearest")
    zoom = torch.diag(torch.tensor([2.0, 2, 1]))
    expected = predict(model, Scene(image, sources[None], K, K, poses), depth_range=(1, 8))
    found = predict(model, Scene(image, fine[None], K, zoom @ K, poses), depth_range=(1, 8))
    assert found.depth.shape == expected.depth.shape and log_ratio(found.depth, expected.depth) < 1


@pytest.mark.parametrize("depth", [2.0, 4.0])
def test_the_volume_is_highest_where_the_wall_is(depth: float) -> None:
    """A textured wall seen by two cameras beside each other: the shift is a whole number of cells."""
    model = small("mvsanywhere_dot", num_depths=13)
    image, sources, poses, K = wall(depth, (64, 128))
    scene = Scene(image, sources[None], K, K, poses)
    found = predict(model, scene, depth_range=(0.5, 32.0), refinements=0, return_volume=True)
    planes = found.planes[0]  # a factor of sqrt 2 apart: 2 and 4 are among them
    assert (planes / depth).log().abs().min() < 1e-6
    inside = found.lowest_cost[0, 3:-3, 10:-10]
    assert (inside / depth).log().abs().median() < 1e-6
    assert ((inside / depth).log().abs() < 1e-6).float().mean() > 0.8


@BOTH
def test_training_mode(name: str) -> None:
    """Four scales, one pass, and gradients for every parameter that has an effect."""
    model, scene = small(name).train(), Scene.drawn(8, views=2, batch=2)
    found = model(*scene, depth_range=(torch.tensor([0.5, 0.4]), torch.tensor([8.0, 9.0])))
    assert len(found.log_depths) == len(found.sky_logits) == 4
    assert torch.equal(found.near, found.first_near)
    loss = sum((each - 1).square().mean() for each in found.log_depths + found.sky_logits)
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
    without = {n.rsplit(".", 1)[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert without == {
        "encoder.model", "cost_volume_net.model", "cost_volume_net.model.patch_embed.proj",
        "cost_volume_net.model.norm", "depth_decoder.scratch.refinenet4.resConfUnit1.conv1",
        "depth_decoder.scratch.refinenet4.resConfUnit1.conv2",
    }  # fmt: skip
    two = model(*scene, refinements=1)
    assert two.log_depths[0].requires_grad and not two.near.requires_grad
    assert model.training and not models.create(name, **SMALL).training


@BOTH
def test_precisions(name: str) -> None:
    model, scene = small(name), Scene.drawn(9, views=3)
    exact = predict(small(name).double(), scene.double(), refinements=0, return_volume=True)
    scale = exact.volume.std()
    single = predict(model, scene, refinements=0, return_volume=True)
    assert (single.volume - exact.volume).abs().max() < 1e-3 * scale
    assert log_ratio(single.depth, exact.depth) < 0.01
    for dtype in (torch.float16, torch.bfloat16):
        narrow = small(name).to(dtype)
        found = predict(narrow, scene.to(dtype), refinements=0, return_volume=True)
        assert found.volume.dtype == dtype and found.depth.dtype == torch.float32
        tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
        assert (found.volume - exact.volume).abs().mean() < tolerance * scale
        assert (found.near < found.depth).all() and (found.depth < found.far).all()


@pytest.mark.slow
def test_the_network_is_one_graph() -> None:
    """With a range that is given, two passes included."""
    model, scene = small("mvsanywhere_dot"), Scene.drawn(10, views=2, size=(32, 48))
    limits = (torch.tensor([0.5]), torch.tensor([8.0]))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        found = compiled(*scene, depth_range=limits)
    torch.testing.assert_close(found.depth, predict(model, scene, depth_range=limits).depth)


@BOTH
def test_empty_batches(name: str) -> None:
    found = predict(small(name), Scene.drawn(1, views=2).nothing(), return_volume=True)
    assert found.depth.shape == (0, 64, 96) and found.volume.shape == (0, 12, 16, 24)
