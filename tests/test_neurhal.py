# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NeurHal: its shape against the thesis, its frame, a training step, and localization with its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")
torch = pytest.importorskip("torch")

from rgbd_scene import CAMERA, faces, pose, view  # noqa: E402

import pyloc_core as pl  # noqa: E402
from pyloc_core import models  # noqa: E402
from pyloc_core.localization.depth_views import UNKNOWN, DepthView, correspondents, keypoint_grid  # noqa: E402
from pyloc_core.localization.pair import PairFeatures, PairMatcher, PairOptions, localize_pair  # noqa: E402
from pyloc_core.models.neurhal.layers import GatedAttentionLayer, position_grid, sample  # noqa: E402
from pyloc_core.models.neurhal.loss import pair_loss  # noqa: E402


@pytest.fixture(scope="module")
def network() -> Any:
    return models.create("neurhal", seed=3)


def count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_those_of_the_thesis(network: Any) -> None:
    """Table C.1: 2.4 M, 142 K, 1.9 M, 7.2 M, 11.7 M; exact where the text fixes the layers."""
    assert count(network.cnn) == 2_439_776
    linear = [m for m in network.position.mlp if isinstance(m, torch.nn.Conv2d)]
    assert sum(map(count, linear)) == 142_240 and len(linear) == 5
    assert round(count(network.self_attention) / 1e6, 1) == 1.9
    cross = count(network.source_attention) + count(network.target_attention)
    assert round(cross / 1e6, 1) == 7.2 and len(network.target_attention) == 4
    assert round(count(network) / 1e6, 1) == 11.7


def test_the_map_of_the_thesis() -> None:
    """640 x 480 at stride 8 and gamma 50 %: 160 x 120 cells, 40 columns and 30 rows more on each side."""
    network = models.create("neurhal")
    assert network.padding_cells((60, 80)) == (30, 40) and network.stride == 8
    assert network.preprocess(np.zeros((480, 640, 3), np.uint8)).shape[2:] == (480, 640)
    assert network.preprocess(np.zeros((968, 1296, 3), np.uint8)).shape[2:] == (478, 640)
    outdoor = models.create("neurhal", no_maxpool=False, gamma=0.25)
    assert (
        outdoor.stride == 16
        and outdoor.map_edge == 60
        and outdoor.padding_cells((40, 60)) == (10, 15)
    )


def images(seed: int, sizes: tuple[tuple[int, int], ...]) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 3, *size, generator=g) for size in sizes]


@torch.no_grad()
def test_output_has_an_origin_outside_the_image(network: Any) -> None:
    source, target = images(1, ((64, 96), (75, 101)))
    keypoints = torch.tensor([[[4.0, 4.0], [90.0, 60.0], [33.3, 20.1]]])
    out = network(source, target, keypoints)
    assert out.image_cells == (10, 13) and out.covers == (80, 104)
    assert out.origin == (-6, -5) and out.features.shape == (1, 384, 20, 25)
    assert out.descriptors.shape == (1, 3, 384)
    # Padded cells say something of the pair: they differ from each other and between targets.
    corner = out.features[0, :, 0, 0]
    other = network(source, 1.5 * target, keypoints).features[0, :, 0, 0]
    assert (corner - out.features[0, :, 0, 3]).abs().max() > 1e-3
    assert (corner - other).abs().max() > 1e-4
    logits = out.descriptors[0] @ out.features[0].flatten(1)
    assert 0.05 < logits.std() < 20  # a start that training can move


@torch.no_grad()
def test_keypoints_are_independent_of_each_other_and_of_the_batch(network: Any) -> None:
    pairs = [images(s, ((48, 64), (48, 64))) for s in (4, 5)]
    keypoints = 8 + 30 * torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(6))
    both = network(*(torch.cat(i) for i in zip(*pairs)), keypoints)
    for b, (source, target) in enumerate(pairs):
        alone = network(source, target, keypoints[b : b + 1, :2])
        torch.testing.assert_close(
            both.descriptors[b, :2], alone.descriptors[0], rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(both.features[b], alone.features[0], rtol=1e-3, atol=1e-3)


def test_positions_continue_beyond_the_image() -> None:
    grid = position_grid((4, 8), (-2, -1), (2, 4), torch.device("cpu"))[0]
    assert grid[0, 0].tolist() == [-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75]
    assert grid[1, :, 0].tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_sampling_reads_cells_and_clamps(rng: np.random.Generator) -> None:
    features = torch.from_numpy(rng.normal(size=(1, 3, 4, 5))).float()
    xy = torch.tensor([[[2.0, 1.0], [2.5, 1.0], [-9.0, 2.0], [4.0, 3.0]]])
    read = sample(features, xy)[0]
    torch.testing.assert_close(read[0], features[0, :, 1, 2])
    torch.testing.assert_close(read[1], (features[0, :, 1, 2] + features[0, :, 1, 3]) / 2)
    torch.testing.assert_close(read[2], features[0, :, 2, 0])
    torch.testing.assert_close(read[3], features[0, :, 3, 4])

    half = sample(features.bfloat16(), xy)[0]
    torch.testing.assert_close(half.float(), read, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_low_precision(network: Any) -> None:
    """Under autocast, as in training, and as a network of bfloat16; keypoints stay where they are."""
    source, target = images(7, ((64, 96), (64, 96)))
    keypoints = 90 * torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(8))
    truth = network(source, target, keypoints)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(source, target, keypoints)
    low = models.create("neurhal", seed=3).bfloat16()
    low = low(source.bfloat16(), target.bfloat16(), keypoints)
    assert low.descriptors.dtype == torch.bfloat16
    for found in (mixed, low):
        for a, b in ((found.descriptors, truth.descriptors), (found.features, truth.features)):
            assert (a.float() - b).norm() < 0.05 * b.norm()


@torch.no_grad()
def test_attention_layer_equals_its_formula() -> None:
    g = torch.Generator().manual_seed(8)
    layer = GatedAttentionLayer(16, 4, 24, 1.0).eval()
    for p in layer.parameters():
        p.copy_(0.3 * torch.randn(p.shape, generator=g))
    tokens, context = torch.randn(2, 5, 16, generator=g), torch.randn(2, 16, 5, 7, generator=g)
    pool = torch.nn.functional.max_pool2d
    k, v = (pool(c(context), 2, 2, ceil_mode=True).flatten(2) for c in (layer.key, layer.value))
    assert k.shape == (2, 16, 12)
    q = layer.query(tokens)
    heads = []
    for h in range(4):
        s = q[..., 4 * h : 4 * h + 4] @ k[:, 4 * h : 4 * h + 4]
        gate = torch.sigmoid(s.amax(-1, keepdim=True))
        heads.append(torch.softmax(gate * s, -1) @ v[:, 4 * h : 4 * h + 4].transpose(1, 2))
    message = layer.merge(torch.cat(heads, -1))
    hidden = layer.norm(layer.expand(torch.cat([tokens, message], -1)).reshape(10, -1)).relu()
    expected = tokens + layer.contract(hidden).reshape(2, 5, 16)
    torch.testing.assert_close(layer(tokens, context), expected, rtol=1e-4, atol=1e-5)


def training_pair() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    scene = faces()
    (a, source), (b, target) = (view(p, scene) for p in (pose(0.5, aim=0.8), pose(-0.6, aim=-0.4)))
    xy = keypoint_grid(CAMERA.size, 12)
    found = correspondents(source, target, xy)
    keep = (found.label != UNKNOWN) & ~source.steep(xy)
    return a, b, xy[keep], found.xy[keep]


def test_a_few_steps_reduce_the_loss() -> None:
    """All kinds of correspondents together, and no labels, as in section 5.3.4."""
    a, b, xy, seen = training_pair()
    network = models.create("neurhal", seed=3, map_edge=9).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.1)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss, used = pair_loss(network, [(a, b, xy, seen)])
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert used > 60  # among them correspondents outside the image
    every = [p for p in network.parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not every and network.padding.grad.any()
    assert losses[-1] < losses[0] - 0.5, losses


class Oracle:
    """Features that answer with the truth: a bump where the point is, whether seen or not; or with a
    picture of it shrunk around the image's centre."""

    def __init__(
        self, points: np.ndarray, target_camera: Any, truth: np.ndarray, shrink: float = 1.0
    ) -> None:
        self.shrink = shrink
        self.xy, _ = target_camera.project(pl.transform_points(truth, points))
        self.size = target_camera.size

    def match_pair(self, source: Any, target: Any, xy: Any) -> PairFeatures:
        cells, pad = (18, 24), (9, 12)
        features = PairFeatures(
            np.zeros((len(xy), 4), np.float32), np.zeros((4, 36, 48), np.float32), (-pad[1], -pad[0]),
            cells, (144, 192), (144, 192),
        )  # fmt: skip
        at = features.to_map(self.xy, self.size)
        np.testing.assert_allclose(features.to_image(at, self.size), self.xy)
        at = [11.5, 8.5] + self.shrink * (at - [11.5, 8.5])
        y, x = np.mgrid[: cells[0] + 2 * pad[0], : cells[1] + 2 * pad[1]]
        x, y = (x - pad[1]) / 8.0, (y - pad[0]) / 8.0
        # <h, F> = -|q - p|^2 / 2 s^2 up to a constant of the row
        maps = np.stack([x, y, -(x**2 + y**2) / 2, np.ones_like(x)]).astype(np.float32)
        p = at / 8.0
        h = np.c_[p, np.ones(len(p)), np.zeros(len(p))].astype(np.float32)
        return PairFeatures(64 * h, maps, features.origin, cells, (144, 192), (144, 192))


def test_localize_pair_with_points_outside_the_target() -> None:
    scene = faces()
    truth = pose(-1.6, aim=-1.9)
    (a, source), (b, _) = view(pose(1.0, aim=1.0), scene), view(truth, scene)
    xy = keypoint_grid(CAMERA.size, 12)
    points = source.lift(xy)
    seen, _ = CAMERA.project(pl.transform_points(truth, np.nan_to_num(points)))
    keep = np.isfinite(points).all(1) & ~source.steep(xy) & (seen[:, 0] < 270)
    assert ((seen[keep] < 0) | (seen[keep] >= [192, 144])).any(1).mean() > 0.4
    matcher = Oracle(points[keep], CAMERA, truth)
    assert isinstance(matcher, PairMatcher)
    found = localize_pair(
        matcher, a, xy[keep], points[keep], b, CAMERA, options=PairOptions(iterations=300)
    )
    assert found.estimate.success, found.estimate.reason
    degrees, distance = pl.pose_error(found.estimate.cam_from_world, truth)
    assert degrees < 0.5 and distance < 0.08
    assert found.maps.origin == (-12, -9) and found.maps.log_cardinality == np.log(1 + 36 * 48)
    assert set(found.estimate.timings) == {"match_pair", "loss_maps", "consensus", "refine"}
    # A matcher that answers nearly alike for all keypoints: the camera would be far away.
    collapsed = Oracle(points[keep], CAMERA, truth, shrink=0.12)
    found = localize_pair(
        collapsed, a, xy[keep], points[keep], b, CAMERA, options=PairOptions(iterations=300)
    )
    assert found.consensus.success and not found.estimate.success
    assert "one place" in found.estimate.reason and np.isinf(found.estimate.covariance).all()


def test_a_pair_of_images_through_the_network(network: Any) -> None:
    """Random weights: the result is a pose without success, or with, but never an error."""
    scene = faces()
    (a, source), (b, _) = view(pose(0.3), scene), view(pose(-0.3), scene)
    xy = keypoint_grid(CAMERA.size, 24)
    points = source.lift(xy)
    keep = np.isfinite(points).all(1)
    found = localize_pair(
        network, a, xy[keep], points[keep], b, CAMERA, options=PairOptions(iterations=64)
    )
    assert np.isfinite(found.estimate.cam_from_world).all() and found.estimate.reason
    again = localize_pair(
        network, a, xy[keep], points[keep], b, CAMERA, options=PairOptions(iterations=64)
    )
    np.testing.assert_array_equal(again.estimate.cam_from_world, found.estimate.cam_from_world)
    features = network.match_pair(a, b, xy)
    # The centre of the first pixel is the centre of the first cell, and so on every 8 pixels.
    xy = [[0.5, 0.5], [184.5, 136.5]]
    np.testing.assert_allclose(features.to_map(xy, CAMERA.size), [[0, 0], [23, 17]])
    cells = network.source_cells(torch.tensor([xy]), torch.zeros(1, 3, 144, 192))
    np.testing.assert_allclose(cells[0].numpy(), [[0, 0], [23, 17]], atol=1e-6)
    K = pl.scale_intrinsics(features.camera(CAMERA).K, features.covers, features.image_cells)
    np.testing.assert_allclose(K[:2, 2], (np.array([95, 73]) - 0.5) / 8)


def test_weights_go_out_and_come_back(network: Any) -> None:
    other = models.create("neurhal", seed=4)
    assert other.weights_digest() != network.weights_digest()
    other.load_official(network.state_dict())
    assert other.weights_digest() == network.weights_digest()
    state = dict(network.state_dict())
    state.pop("padding")
    with pytest.raises(ValueError, match="padding"):
        other.load_official(state)


def test_refusals(network: Any) -> None:
    source, target = images(1, ((32, 32), (32, 32)))
    with pytest.raises(ValueError, match="keypoints"):
        network(source, target, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="as many pairs"):
        network(source, target, torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="target"):
        network(source, target[0], torch.zeros(1, 3, 2))
    for bad in ({"gamma": -1}, {"map_edge": 0}, {"self_hidden": 0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            models.create("neurhal", **bad)
    scene = faces()
    a, source_view = view(pose(0.0), scene)
    assert isinstance(source_view, DepthView)
    xy, points = keypoint_grid(CAMERA.size, 48), np.ones((12, 3))
    for changed, text in (({"keypoints": xy[:, 0]}, "keypoints"), ({"points3d": points[:3]}, "points3d"),
                          ({"points3d": points * np.nan}, "points3d"),
                          ({"target_image": a[:-1]}, "target_image")):  # fmt: skip
        given = {"keypoints": xy, "points3d": points, "target_image": a, **changed}
        with pytest.raises(ValueError, match=text):
            localize_pair(network, a, target_camera=CAMERA, **given)


@pytest.mark.slow
def test_two_photos(shared: Any) -> None:
    """The whole way at the published size, on a pair of photos; random weights: function, not accuracy."""
    from pyloc_core.localization.images import read_image

    folder = shared / "data" / "nre_megadepth_pair"
    sample = np.load(folder / "sample.npz")
    source, target = (
        read_image(next(folder.glob(f"{name}*.jpg"))) for name in ("source", "target")
    )
    cameras = []
    for name, image in (("source", source), ("target", target)):
        K = sample[f"{name}_K"]
        size = image.shape[1], image.shape[0]
        cameras.append(pl.Camera("PINHOLE", *size, (K[0, 0], K[1, 1], K[0, 2], K[1, 2])))
    xy, front = cameras[0].project(pl.transform_points(sample["source_P"][:3], sample["p3D"]))
    inside = front & (xy > 0).all(1) & (xy < [cameras[0].width, cameras[0].height]).all(1)
    network = models.create("neurhal", seed=1)
    found = localize_pair(network, source, xy[inside], sample["p3D"][inside], target, cameras[1])
    assert len(found.maps) == inside.sum() > 100
    assert max(found.maps.image_cells) == 80 and max(found.maps.size) == 160
    assert found.maps.origin == tuple(-side // 2 for side in found.maps.image_cells[::-1])
    assert np.isfinite(found.estimate.cam_from_world).all() and not found.estimate.success
