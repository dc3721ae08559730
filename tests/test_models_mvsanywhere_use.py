# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSAnywhere from arrays, along sequences, and on bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvsanywhere_scene import Scene, small  # noqa: E402

from pyloc_core.models.mvsanywhere.sequence import DepthSequence  # noqa: E402

BOTH = pytest.mark.parametrize("name", ["mvsanywhere_dot", "mvsanywhere_hero"])


def pictures(count: int, height: int = 50, width: int = 64) -> list[Any]:
    scene = Scene.drawn(21, views=count - 1, size=(height, width))
    values = torch.cat([scene.reference[:, None], scene.sources], 1)[0].permute(0, 2, 3, 1)
    return list((60 * values + 120).clamp(0, 255).byte().numpy())


def cameras(count: int) -> tuple[np.ndarray, np.ndarray]:
    """K (n, 3, 3) and poses camera from world (n, 4, 4)."""
    scene = Scene.drawn(22, views=count - 1)
    poses = np.concatenate([np.eye(4)[None], scene.poses[0].numpy()])
    world = np.eye(4)
    world[:3, 3] = 5.0, -3.0, 2.0
    K = np.tile([[60.0, 0, 31], [0, 60, 26], [0, 0, 1]], (count, 1, 1))
    K[:, 0, 0] += np.arange(count)
    return K, poses @ world


@BOTH
def test_arrays_to_depth(name: str) -> None:
    """uint8 images in, a NumPy map out; the mode and global state of the network stay."""
    model, images = small(name).train(), pictures(4)
    K, poses = cameras(4)
    relative = poses[1:] @ np.linalg.inv(poses[0])
    found = model.predict(images[0], images[1:], K[0], K[1:], relative, refinements=2)
    assert model.training and not found.depth.requires_grad
    depth = found.depth_map()
    assert depth.shape == (50, 64) and depth.dtype == np.float32
    pixels = [model.preprocess(image) for image in images]
    tensors = (torch.from_numpy(each)[None] for each in (K[0], K[1:], relative))
    with torch.inference_mode():
        same = model.eval()(pixels[0], torch.cat(pixels[1:])[None], *tensors, refinements=2)
    assert torch.equal(same.depth, found.depth)
    grey = model.predict(images[0][..., 0], images[1:], K[0], K[1:], relative[:, :3])
    assert grey.depth.shape == (1, 50, 64)
    half = model.predict(images[0], images[1:], K[0], K[1:], relative, half=True, refinements=0)
    full = model.predict(images[0], images[1:], K[0], K[1:], relative, refinements=0)
    assert half.depth.dtype == torch.float32
    assert 0 < (half.depth / full.depth).log().abs().median() < 0.1
    with pytest.raises(ValueError, match="sources must be of one size"):
        model.predict(images[0], [images[1], images[2][:40]], K[0], K[1:3], relative[:2])
    with pytest.raises(ValueError, match="sources must hold at least one view"):
        model.predict(images[0], [], K[0], K[1:1], relative[:0])


@BOTH
def test_a_sequence_encodes_every_image_once(name: str) -> None:
    model, images = small(name), pictures(6)
    K, poses = cameras(6)
    calls = {"matching": 0, "mono": 0}

    def count(what: str) -> Any:
        def hook(*_: Any) -> None:
            calls[what] += 1

        return hook

    hooks = [model.matching_model.register_forward_hook(count("matching")),
             model.vit.blocks[0].register_forward_hook(count("mono"))]  # fmt: skip
    sequence = DepthSequence(model, capacity=4)
    for i, image in enumerate(images):
        sequence.add(i, image, K[i], poses[i])
    assert sequence.keys() == [2, 3, 4, 5] and len(sequence) == 4 and 1 not in sequence
    found = {ref: sequence.predict(ref, [v for v in (2, 3, 4, 5) if v != ref]) for ref in (5, 3)}
    sequence.predict(3, [2, 4], refinements=0)
    assert calls == {"matching": 6, "mono": 2}
    for hook in hooks:
        hook.remove()
    for ref, each in found.items():
        others = [v for v in (2, 3, 4, 5) if v != ref]
        relative = poses[others] @ np.linalg.inv(poses[ref])
        direct = model.predict(
            images[ref], [images[v] for v in others], K[ref], K[others], relative
        )
        assert (each.depth / direct.depth).log().abs().max() < 1e-4
        assert torch.equal(each.near, direct.near) or torch.allclose(each.near, direct.near)
    sequence.add(3, images[0], K[0], poses[0][:3])
    assert sequence.keys() == [2, 4, 5, 3]
    assert not torch.equal(sequence.predict(3, [2, 4]).depth, found[3].depth), "3 was replaced"


@BOTH
def test_networks_of_another_precision_take_photos(name: str) -> None:
    """`half()` and `double()` change the weights; photos come as float32 whatever they are."""
    images, (K, poses) = pictures(3), cameras(3)
    relative = poses[1:] @ np.linalg.inv(poses[0])
    options = {"refinements": 0}
    plain = small(name).predict(images[0], images[1:], K[0], K[1:], relative, **options)
    for changed, bound, dtype in (("half", 0.1, torch.float32), ("double", 1e-4, torch.float64)):
        model = getattr(small(name), changed)()
        found = model.predict(images[0], images[1:], K[0], K[1:], relative, **options)
        assert found.depth.dtype == dtype
        assert float((found.depth / plain.depth).log().abs().median()) < bound
        sequence = DepthSequence(model)
        for i, image in enumerate(images):
            sequence.add(i, image, K[i], poses[i])
        again = sequence.predict(0, [1, 2], **options)
        torch.testing.assert_close(again.depth, found.depth, rtol=1e-3, atol=0)


def test_a_sequence_says_what_is_wrong() -> None:
    model, images = small("mvsanywhere_dot"), pictures(3)
    K, poses = cameras(3)
    sequence = DepthSequence(model, half=True)
    for i, image in enumerate(images):
        sequence.add(("frame", i), image, K[i], poses[i])
    assert sequence.predict(("frame", 0), [("frame", 1)]).depth.shape == (1, 50, 64)
    with pytest.raises(ValueError, match="there is no view 'x'"):
        sequence.predict("x", [("frame", 1)])
    with pytest.raises(ValueError, match=r"there is no view \('frame', 7\)"):
        sequence.predict(("frame", 0), [("frame", 7)])
    with pytest.raises(ValueError, match="sources must name at least one view"):
        sequence.predict(("frame", 0), [])
    with pytest.raises(ValueError, match="cam_from_world must be"):
        sequence.add("y", images[0], K[0], np.eye(3))
    with pytest.raises(ValueError, match="cam_from_world"):
        sequence.add("y", images[0], K[0], np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="the reference is among its own sources"):
        sequence.predict(("frame", 0), [("frame", 1), ("frame", 0)])
    sequence.add("small", images[0][:40], K[0], poses[1])
    with pytest.raises(ValueError, match="sources must be of one size"):
        sequence.predict(("frame", 0), ["small", ("frame", 1)])
    assert sequence.predict(("frame", 0), ["small"]).depth.shape == (1, 50, 64)
    with pytest.raises(ValueError, match="capacity must be at least 2"):
        DepthSequence(model, capacity=1)
    with pytest.raises(TypeError, match="model must be an MVSAnywhere"):
        DepthSequence(torch.nn.Identity())  # type: ignore[arg-type]


def changed(scene: Scene, name: str, value: Any) -> Scene:
    return scene._replace(**{name: value})


def with_nan(values: torch.Tensor) -> torch.Tensor:
    out = values.clone()
    out.view(-1)[3] = float("nan")
    return out


@BOTH
def test_bad_input_is_named(name: str) -> None:
    model, scene = small(name), Scene.drawn(23, views=2, size=(32, 48))

    def refused(message: str, kind: type[Exception] = ValueError, **options: Any) -> None:
        with pytest.raises(kind, match=message), torch.inference_mode():
            model(*options.pop("scene", scene), **options)

    published = {"reference": "reference", "sources": "sources", "K_reference": "K_reference",
                 "K_sources": "K_sources", "poses": "source_from_reference"}  # fmt: skip
    for field, argument in published.items():
        nan = changed(scene, field, with_nan(getattr(scene, field)))
        refused(f"{argument} holds NaN", scene=nan)
        wrong = changed(scene, field, getattr(scene, field)[..., :2, :])
        refused(f"{argument} must|images must have at least 32", scene=wrong)
    refused(
        "at least 32 pixels a side", scene=changed(scene, "reference", scene.reference[..., :31])
    )
    refused("reference must be", TypeError, scene=changed(scene, "reference", None))
    refused("sources must be", TypeError, scene=changed(scene, "sources", scene.sources.byte()))
    refused("sources must hold at least one", scene=scene.picked([]))
    refused("sources are of 1 references, reference has 2",
            scene=changed(scene, "reference", scene.reference.repeat(2, 1, 1, 1)))  # fmt: skip
    refused("K_reference cannot be inverted", scene=changed(scene, "K_reference", torch.ones(3, 3)))
    refused("detach it", scene=changed(scene, "poses", scene.poses.clone().requires_grad_()))
    still = scene.poses.clone()
    still[..., :3, 3] = 0
    refused("all baselines are zero", scene=changed(scene, "poses", still))
    for bad in ((2.0, 1.0), (0.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0), (-1.0, 2.0)):
        refused("0 < near < far", depth_range=bad)
    refused("depth_range must be two numbers", depth_range=(torch.ones(3), 2.0))
    refused(r"depth_range must be \(near, far\)", depth_range=2.0)
    refused("num_valid must be 1 to 2", num_valid=3)
    refused("num_valid must be 1 to 2", num_valid=[0])
    refused("num_valid must be an integer", TypeError, num_valid=1.5)
    refused("refinements must be", refinements=-1)
    refused("scales must be 1 to 4", scales=5)
    with pytest.raises(ValueError, match="return_volume=True"):
        _ = model(*scene).lowest_cost


@BOTH
def test_odd_geometry_gives_finite_depth(name: str) -> None:
    """No baseline with a given range, sources that look away, or that stand behind the reference."""
    model, scene = small(name), Scene.drawn(24, views=2, size=(32, 48))
    still, away, behind = (scene.poses.clone() for _ in range(3))
    still[..., :3, 3] = 0
    away[..., :3, :3] = torch.diag(torch.tensor([-1.0, 1, -1]).double())
    behind[..., 2, 3] = -50.0
    for poses in (still, away, behind):
        odd = changed(scene, "poses", poses)
        with torch.inference_mode():
            found = model(*odd, depth_range=(0.5, 8.0), return_volume=True)
        assert torch.isfinite(found.depth).all() and torch.isfinite(found.volume).all()
    with torch.inference_mode():
        dot = model(*changed(scene, "poses", away), depth_range=(0.5, 8.0), return_volume=True)
    assert not dot.mask.any()
    if name == "mvsanywhere_dot":
        assert (dot.volume == 0).all(), "nothing lies in front of the sources"


@BOTH
def test_matrices_without_leading_axes(name: str) -> None:
    model, scene = small(name), Scene.drawn(25, views=2, batch=2, size=(32, 48))
    K = scene.K_reference[0]
    poses = scene.poses[:1].expand(2, -1, -1, -1)
    wide = scene._replace(
        K_reference=K.expand(2, 3, 3), K_sources=K.expand(2, 2, 3, 3), poses=poses
    )
    short = scene._replace(K_reference=K.numpy(), K_sources=K.tolist(), poses=scene.poses[0, :, :3])
    with torch.inference_mode():
        assert torch.equal(model(*short).depth, model(*wide).depth)


def test_host_cameras_beside_images_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors stand in for a GPU's: no two devices meet, and host cameras are checked as ever."""
    from pyloc_core.models.mvsanywhere import variants

    cameras_at: list[str] = []

    def volume(reference: Any, sources: Any, *geometry: Any, **_: Any) -> Any:
        K_reference, K_sources, poses, planes = geometry[:4]
        cameras_at.append({each.device.type for each in (K_reference, K_sources, poses)}.pop())
        assert reference.device.type == sources.device.type == planes.device.type == "meta"
        return reference.new_empty(*planes.shape, *reference.shape[2:])

    monkeypatch.setattr(variants, "plane_sweep", volume)
    model, host = small("mvsanywhere_dot").to("meta"), Scene.drawn(26, views=3, batch=2)
    images = host._replace(reference=host.reference.to("meta"), sources=host.sources.to("meta"))
    device = Scene(*(each.to("meta") for each in host))
    one_there = images._replace(poses=host.poses.to("meta"))
    counts = torch.tensor([1, 3])
    for scene, options, expected in (
        (images, {"num_valid": [1, 3]}, "cpu"), (one_there, {}, "meta"),
        (images, {"depth_range": (1, torch.ones(2) * 3)}, "cpu"),
        (images, {"num_valid": counts.to("meta")}, "meta"), (device, {"num_valid": counts}, "meta"),
        (device, {"depth_range": (0.5, 2.0), "scales": 4}, "meta"),
    ):  # fmt: skip
        cameras_at.clear()
        with torch.inference_mode():
            found = model(*scene, return_volume=True, **options)
        assert cameras_at == [expected] * 2
        for each in (found.depth, found.mask, found.near, found.volume, found.sky, found.planes):
            assert each.device.type == "meta"
    still = host.poses.clone()
    still[..., :3, 3] = 0
    with pytest.raises(ValueError, match="all baselines are zero"), torch.inference_mode():
        model(*images._replace(poses=still))
    with pytest.raises(ValueError, match="K_sources holds NaN"), torch.inference_mode():
        model(*images._replace(K_sources=with_nan(host.K_sources)))
    with pytest.raises(ValueError, match="0 < near < far"), torch.inference_mode():
        model(*device, depth_range=(2.0, 1.0))


def test_real_photos_match_where_the_points_are(shared: Path) -> None:
    """The dot volume needs no training to have its best plane near the triangulated points: random
    convolutions are descriptors, and intrinsics and poses are those of a COLMAP model."""
    pytest.importorskip("pycolmap")
    pytest.importorskip("PIL")
    from pyloc_core.depth.posed_images import read_posed_images
    from pyloc_core.pose import compose_poses, inverse_pose

    folder = shared / "data" / "fountain_P11"
    views = read_posed_images(folder / "sparse", folder / "images", max_size=480)
    reference, sources = views[5], [views[i] for i in (3, 4, 6, 7)]
    back = inverse_pose(reference.cam_from_world)
    model = small("mvsanywhere_dot", matching_width=64, num_depths=128)
    found = model.predict(
        reference.image, [view.image for view in sources], reference.camera.K,
        np.stack([view.camera.K for view in sources]),
        np.stack([compose_poses(view.cam_from_world, back) for view in sources]),
        depth_range=reference.point_range(), refinements=0, return_volume=True,
    )  # fmt: skip
    best = found.lowest_cost[0].numpy()
    xy, depth, _ = reference.project_points()
    column, row = np.floor(xy / 4).astype(int).T
    inside = (row >= 0) & (row < best.shape[0]) & (column >= 0) & (column < best.shape[1])
    error = np.abs(best[row[inside], column[inside]] / depth[inside] - 1)
    assert inside.sum() > 2000 and np.median(error) < 0.02 and (error < 0.03).mean() > 0.6
    other = np.random.default_rng(0).permutation(np.flatnonzero(inside))
    by_chance = np.abs(best[row[inside], column[inside]] / depth[other] - 1)
    assert np.median(by_chance) > 0.04
