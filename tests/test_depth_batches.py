# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Tuples to train depth on: what is mirrored, widened and recoloured must stay one scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

import pyloc_core as pl  # noqa: E402
from pyloc_core.training import RenderedScenes  # noqa: E402
from pyloc_core.training.depth_batches import (  # noqa: E402
    DepthBatches,
    changed_tuple,
    plain_tuple,
)
from pyloc_core.training.depth_changes import jittered, known_range, mirrored  # noqa: E402
from pyloc_core.training.depth_options import DepthOptions  # noqa: E402
from pyloc_core.training.distributed import Processes  # noqa: E402

ONE = Processes(0, 1, torch.device("cpu"))
SCENES = RenderedScenes(count=6, views=3, size=(48, 64), seed=4, sky=0.5)


def options(**changed: object) -> DepthOptions:
    values = {"batch": 2, "accumulation": 1, "sources": 2}
    return DepthOptions.from_dict({**values, **changed})


def landing(item: dict, source: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel of a source, and depth there, of each reference pixel, by the tuple's own matrices."""
    depth = item["depth"].numpy().astype(np.float64)
    h, w = depth.shape
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(item["K_reference"].numpy()).T
    points = pl.transform_points(
        item["source_from_reference"][source].numpy(), (rays * depth[..., None]).reshape(-1, 3)
    )
    seen = points @ item["K_sources"][source].numpy().T
    return (seen[:, :2] / seen[:, 2:]).reshape(h, w, 2), seen[:, 2].reshape(h, w)


def test_a_mirrored_scene_is_one_scene() -> None:
    """Every pixel's mirror image lands at the mirror image of where it landed."""
    for scene in list(SCENES)[:3]:
        other = mirrored(scene)
        plain, turned = plain_tuple(scene, 2), plain_tuple(other, 2)
        assert torch.equal(turned["reference"], plain["reference"].flip(-1))
        assert torch.equal(turned["depth"], plain["depth"].flip(-1))
        assert torch.equal(turned["sky"], plain["sky"].flip(-1))
        known = plain["depth"].numpy() > 0
        for source in range(2):
            xy, z = landing(plain, source)
            xy2, z2 = landing(turned, source)
            np.testing.assert_allclose(z2[:, ::-1][known], z[known], rtol=1e-9)
            expected = np.stack([64 - xy[..., 0], xy[..., 1]], -1)
            np.testing.assert_allclose(xy2[:, ::-1][known], expected[known], atol=1e-7)
        for pose in other.cam_from_world:
            assert np.linalg.det(pose[:, :3]) == pytest.approx(1)
        again = mirrored(other)
        np.testing.assert_array_equal(again.images, scene.images)
        np.testing.assert_array_equal(again.cam_from_world, scene.cam_from_world)
        np.testing.assert_allclose(again.K, scene.K, rtol=1e-15)


def test_the_dot_volume_of_a_mirrored_tuple_is_the_mirrored_volume() -> None:
    plain, turned = (plain_tuple(s, 2) for s in (SCENES[1], mirrored(SCENES[1])))
    depths = torch.linspace(1, 30, 7)

    to_map = torch.from_numpy(pl.scale_intrinsics(np.eye(3), (48, 64), (12, 16)))

    def volume(item: dict) -> torch.Tensor:
        maps = torch.nn.functional.avg_pool2d
        return pl.plane_sweep(
            maps(item["reference"][None], 4)[0], maps(item["sources"], 4), to_map @ item["K_reference"],
            to_map @ item["K_sources"], item["source_from_reference"], depths,
        )  # fmt: skip

    one, other = volume(plain), volume(turned)
    assert one.std() > 0.1
    torch.testing.assert_close(other, one.flip(-1), rtol=1e-4, atol=1e-4)


def test_distortion_cannot_be_mirrored() -> None:
    camera = pl.Camera("SIMPLE_RADIAL", 64, 48, (60.0, 32.0, 24.0, 0.1))
    with pytest.raises(ValueError, match="SIMPLE_RADIAL"):
        mirrored(replace(SCENES[0], cameras=(camera,) * 3))


def test_the_range_is_known_and_widened_within_its_bounds() -> None:
    seen = []
    for number in range(60):
        item = changed_tuple(np.random.default_rng(number), SCENES[0], options())
        near, far = known_range(item["depth"].numpy())
        seen.append((float(item["near"]) / near, float(item["far"]) / far))
    ratio = np.array(seen)
    assert (
        (ratio[:, 0] >= 0.5) & (ratio[:, 0] <= 1) & (ratio[:, 1] >= 1) & (ratio[:, 1] <= 2)
    ).all()
    assert ratio[:, 0].min() < 0.55 and ratio[:, 0].max() > 0.95
    assert ratio[:, 1].min() < 1.1 and ratio[:, 1].max() > 1.9
    exact = changed_tuple(np.random.default_rng(0), SCENES[0], options(near_noise=0, far_noise=0))
    assert (float(exact["near"]), float(exact["far"])) == pytest.approx(
        known_range(exact["depth"].numpy())
    )
    with pytest.raises(ValueError, match="no pixel of known depth"):
        known_range(np.zeros((2, 2), np.float32))


def test_references_sources_and_flips_vary() -> None:
    items = [
        changed_tuple(np.random.default_rng(i), SCENES[0], options(jitter=0)) for i in range(40)
    ]
    references = {item["reference"].numpy().tobytes() for item in items}
    assert len(references) == 6  # three views, plain and mirrored
    share = np.mean([bool(item["mirror"]) for item in items])
    assert 0.25 < share < 0.75
    never = [changed_tuple(np.random.default_rng(i), SCENES[0], options(flip=0, network_flip=0))
             for i in range(10)]  # fmt: skip
    assert not any(bool(item["mirror"]) for item in never)
    assert never[0]["sources"].shape == (2, 3, 48, 64)
    assert (
        changed_tuple(np.random.default_rng(0), SCENES[0], options(sources=1))["sources"].shape[0]
        == 1
    )


def test_jitter_changes_colours_alike_in_all_views() -> None:
    images = SCENES[0].images
    plain = jittered(np.random.default_rng(0), images, 0.0)
    np.testing.assert_array_equal(plain, images.astype(np.float32) / np.float32(255))
    changed = jittered(np.random.default_rng(0), images, 0.2)
    assert changed.min() >= 0 and changed.max() <= 1 and np.abs(changed - plain).mean() > 0.01
    same = np.repeat(images[:1], 3, 0)
    views = jittered(np.random.default_rng(3), same, 0.2)
    assert (views[0] == views[1]).all() and (views[0] == views[2]).all()
    grey = jittered(np.random.default_rng(1), np.full((1, 4, 4, 3), 90, np.uint8), 0.2)
    assert np.ptp(grey) < 1e-3  # hue and saturation leave grey alone (matrices of three digits)


class Drawn:
    """What `jittered` draws, given: brightness, contrast and saturation, then the hue."""

    def __init__(self, *factors: float, hue: float = 0.0) -> None:
        self.values = [np.array(factors), hue]

    def uniform(self, low: float, high: float, size: int | None = None) -> object:
        return self.values.pop(0)


def test_each_change_of_colours_is_what_it_is_called() -> None:
    images = (60 + 0.4 * SCENES[0].images).astype(np.uint8)  # nothing is clipped
    rgb = images / 255
    luma = rgb @ [0.299, 0.587, 0.114]

    def found(*factors: float, hue: float = 0.0) -> np.ndarray:
        return jittered(Drawn(*factors, hue=hue), images, 0.2)

    np.testing.assert_allclose(found(1.2, 1, 1), 1.2 * rgb, atol=1e-5)
    middle = luma.mean()
    np.testing.assert_allclose(found(1, 0.8, 1), middle + 0.8 * (rgb - middle), atol=1e-3)
    grey = luma[..., None]
    np.testing.assert_allclose(found(1, 1, 0.8), grey + 0.8 * (rgb - grey), atol=1e-3)
    turned = found(1, 1, 1, hue=0.2)
    np.testing.assert_allclose(turned @ [0.299, 0.587, 0.114], luma, atol=1e-3)
    assert np.abs(turned - rgb).mean() > 0.01
    whole = found(1, 1, 1, hue=1.0)
    np.testing.assert_allclose(whole, rgb, atol=1e-5)


def test_batches_depend_on_the_seed_the_epoch_and_the_number_alone() -> None:
    batches = DepthBatches(SCENES, options())
    assert batches.steps(ONE) == 3
    whole = list(batches.batches(1, 0, ONE))
    rest = list(batches.batches(1, 2, ONE))
    assert len(whole) == 3 and len(rest) == 1
    for name, value in whole[2].items():
        assert torch.equal(value, rest[0][name]), name
    assert not torch.equal(whole[2]["reference"], next(batches.batches(0, 2, ONE))["reference"])
    two = [Processes(rank, 2, torch.device("cpu")) for rank in range(2)]
    shared = [next(batches.batches(1, 0, group))["depth"] for group in two]
    assert sorted(d.sum().item() for d in torch.cat(shared)) == sorted(
        d.sum().item() for d in whole[0]["depth"]
    )
    with pytest.raises(ValueError, match="exceeds the 6 scenes"):
        DepthBatches(SCENES, options(batch=8))
    with pytest.raises(ValueError, match="does not divide over 3 processes"):
        batches.steps(Processes(0, 3, torch.device("cpu")))


def test_workers_give_the_same_batches() -> None:
    plain = list(DepthBatches(SCENES, options()).batches(0, 0, ONE))
    made = list(DepthBatches(SCENES, options(workers=1)).batches(0, 0, ONE))
    for a, b in zip(plain, made, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_rates_of_the_three_groups() -> None:
    chosen = DepthOptions()
    matching = [chosen.group_rate({"part": "matching"}, 0, s) for s in (0, 69999, 70000, 80000)]
    assert matching == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    mono = [chosen.group_rate({"part": "mono"}, 0, s) for s in (0, 35000, 70000, 90000)]
    assert mono == pytest.approx([5e-6, 5e-6 * 0.5005, 5e-9, 5e-9])
    decoder = chosen.group_rate({"part": "decoder"}, 0, 35000)
    assert decoder == pytest.approx(5e-5 * 0.5005)


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"batch": 3, "accumulation": 2}, ValueError, "accumulation"),
        ({"near_noise": 1.0}, ValueError, "near_noise"),
        ({"flip": 1.5}, ValueError, "flip"),
        ({"mono_rate": 0.0}, ValueError, "mono_rate"),
        ({"published_sky": 1}, TypeError, "published_sky"),
        ({"jiter": 0.1}, TypeError, "did you mean jitter"),
    ],
)
def test_bad_options_are_named(changed: dict, error: type, named: str) -> None:
    with pytest.raises(error, match=named):
        options(**changed)


def test_views_without_depth_are_sources_alone() -> None:
    """A sensor's map may be empty: the run goes on with the other views as references."""
    depth = SCENES[0].depth.copy()
    depth[[0, 2]] = 0
    scene = replace(SCENES[0], depth=depth)
    for number in range(8):
        item = changed_tuple(np.random.default_rng(number), scene, options())
        assert (item["depth"] > 0).any() and len(item["sources"]) == 2
    with pytest.raises(ValueError, match="no pixel of known depth"):
        changed_tuple(
            np.random.default_rng(0), replace(scene, depth=np.zeros_like(depth)), options()
        )
