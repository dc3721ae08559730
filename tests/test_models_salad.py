# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD: descriptors of images, checkpoints, training, heat maps; its head in test_salad_head.py."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pillow = pytest.importorskip("PIL.Image")

import golden_parity  # noqa: E402
from checkpoint_files import training_program  # noqa: E402
from dinov2_formulas import noise, tokens_by_hand  # noqa: E402
from salad_formulas import descriptor_by_hand, transport_by_hand, two_layers  # noqa: E402
from shared_data import SHARED  # noqa: E402

from pyloc_core import models  # noqa: E402
from pyloc_core.models.dinov2 import SIZES, ViTSize  # noqa: E402
from pyloc_core.models.salad.head import HEADS, SALADHead  # noqa: E402
from pyloc_core.models.salad.heat_map import draw_heat_map  # noqa: E402

# A transformer of the usual depth, so narrow that it takes no time.
SMALL = {"backbone": "tiny", **HEADS["512+32"], "hidden": 48, "size": 84}


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    SIZES["tiny"] = ViTSize(48, 12, 3)
    yield
    del SIZES["tiny"]


@pytest.fixture(scope="module")
def model(tiny: None) -> Any:
    return models.create("salad", seed=2, **SMALL)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 12)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    noisy = smooth.permute(1, 2, 0).numpy() + rng.normal(0, 6, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def test_descriptors_of_a_batch_are_those_of_single_images(model: Any, tmp_path: Path) -> None:
    images = [picture(seed, 60 + 9 * seed, 90) for seed in range(3)]
    pillow.fromarray(images[1]).save(tmp_path / "Zürich 東京.png")
    singles = np.stack([model.global_descriptor(image) for image in images])
    assert singles.shape == (3, 544) and singles.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(singles, axis=1), 1, atol=1e-6)
    assert (singles @ singles.T)[~np.eye(3, dtype=bool)].max() < 0.999, "they differ"
    mixed = [images[0], tmp_path / "Zürich 東京.png", images[2]]
    for size in (1, 2, 16):
        batched = model.global_descriptors((image for image in mixed), batch_size=size)
        np.testing.assert_allclose(batched, singles, atol=1e-6)
    pixels = torch.cat([model.preprocess(image) for image in images])
    with torch.inference_mode():
        np.testing.assert_allclose(model(pixels), singles, atol=1e-6)


@pytest.mark.slow
def test_the_network_is_one_graph(model: Any) -> None:
    pixels = noise(4, 2, 3, 84, 84)
    with torch.inference_mode():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(pixels), model(pixels))


def test_empty_batches_and_other_precisions(model: Any) -> None:
    assert model(torch.zeros(0, 3, 84, 84)).shape == (0, 544)
    assert model.assignment(torch.zeros(0, 3, 84, 84)).shape == (0, 17, 36)
    pixels = noise(4, 2, 3, 84, 84)
    with torch.inference_mode():
        expected = model(pixels)
        wide = copy.deepcopy(model).double()
        np.testing.assert_allclose(wide(pixels.double()), expected, atol=2e-6)
        narrow = copy.deepcopy(model).bfloat16()(pixels.bfloat16())
    assert (narrow.float() - expected).norm(dim=1).max() < 0.05
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.aggregator.score[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="scores hold"):
        broken.global_descriptor(picture(1, 90, 90))


def test_images_without_resize_may_differ_in_shape() -> None:
    free = models.create("salad", seed=2, **{**SMALL, "size": None})
    fixed = models.create("salad", seed=2, **{**SMALL, "size": (70, 98)})
    images = [picture(s, h, w) for s, h, w in ((1, 70, 98), (2, 70, 98), (3, 84, 56), (4, 70, 98))]
    found = free.global_descriptors(images, batch_size=2)
    assert len(found) == 4
    for index in (0, 1, 3):
        np.testing.assert_allclose(found[index], fixed.global_descriptor(images[index]), atol=1e-6)
    with pytest.raises(ValueError, match=r"images\[1\]: .* multiples of 14, got 71 x 98"):
        free.global_descriptors([images[0], picture(1, 71, 98)])


def test_half_precision_stays_close(model: Any) -> None:
    images = [picture(seed, 84, 84) for seed in range(10, 14)]
    full, half = (model.global_descriptors(images, half=half) for half in (False, True))
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    away = np.linalg.norm(full - half, axis=1)
    assert away.min() > 0 and away.max() < 0.05
    between = np.linalg.norm(full[:, None] - full[None], axis=2)
    assert away.max() < 0.5 * between[~np.eye(4, dtype=bool)].min()


def test_preprocessing_squashes_as_published() -> None:
    model = models.create("salad", **{**SMALL, "size": 322})
    image = picture(5, 120, 500)
    resized = pillow.fromarray(image).resize((322, 322), pillow.Resampling.BILINEAR)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((np.asarray(resized) / 255 - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(model.preprocess(image), expected, atol=1e-6)
    grey = image[:, :, 0]
    same = model.preprocess(np.repeat(grey[:, :, None], 3, 2))
    assert torch.equal(model.preprocess(grey), same)
    assert torch.equal(model.preprocess(image.astype(np.float64)), model.preprocess(image))
    assert model.preprocess(np.full((1, 1), 7, np.uint8)).shape == (1, 3, 322, 322)


def test_bad_images_and_options(model: Any, tmp_path: Path) -> None:
    assert model.global_descriptors([]).shape == (0, 544)
    with pytest.raises(ValueError, match=r"images\[1\]: no such image: .*absent\.jpg"):
        model.global_descriptors([picture(1, 40, 40), tmp_path / "absent.jpg"])
    with pytest.raises(ValueError, match=r"images\[0\]: image holds floats in \[0, 1\]"):
        model.global_descriptor(picture(1, 40, 40) / 255)
    with pytest.raises(TypeError, match=r"images\[0\]: image must be uint8, got int64"):
        model.global_descriptor(np.ones((30, 30), np.int64))
    for one in ("photo.jpg", picture(1, 40, 40)):
        with pytest.raises(TypeError, match="global_descriptor takes one"):
            model.global_descriptors(one)
    for bad, kind in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="batch_size must be"):
            model.global_descriptors([], batch_size=bad)
    with pytest.raises(TypeError, match="images must be a list of images, got NoneType"):
        model.global_descriptors(None)
    for bad in (torch.ones(1, 3, 84, 84, dtype=torch.uint8), np.ones((1, 3, 84, 84))):
        with pytest.raises(TypeError, match="images must be a tensor of floating point"):
            model(bad)
    with pytest.raises(ValueError, match="more patches than clusters, got 2 x 8 patches"):
        model(torch.ones(1, 3, 28, 112))
    for bad in (320, 0, (322, 10), (14,), 3.5, True):
        with pytest.raises(ValueError, match="size must be a multiple of 14"):
            models.create("salad", **{**SMALL, "size": bad})
    with pytest.raises(ValueError, match="size 56 gives 4 x 4 patches, too few for 16 clusters"):
        models.create("salad", **{**SMALL, "size": 56})
    with pytest.raises(TypeError, match="no option 'num_cluster'; did you mean num_clusters"):
        models.create("salad", num_cluster=3)


def test_to_dict_tells_the_weights_and_not_the_training(model: Any) -> None:
    again = models.create("salad", **{**model.config(), "trainable_blocks": 1}, seed=2)
    assert again.to_dict() == model.to_dict() == json.loads(json.dumps(model.to_dict()))
    assert model.to_dict()["name"] == "salad" and model.to_dict()["size"] == [84, 84]
    assert models.create("cliquemining", seed=2, **SMALL).to_dict() != model.to_dict()
    for name in ("salad", "cliquemining"):
        assert "GPL-3.0" in models.model_class(name).licence.code


def test_official_containers(model: Any, tmp_path: Path) -> None:
    """SALAD's file is a bare state dict, that of CliqueMining comes from Lightning."""
    state = model.state_dict()
    torch.save(state, tmp_path / "dino_salad.ckpt")
    with training_program() as program:
        content = {
            "epoch": 3, "global_step": 8000, "pytorch-lightning_version": "2.0.4",
            "hyper_parameters": program.AttributeDict(backbone_arch="dinov2_vitb14", lr=6e-5),
            "state_dict": state,
        }  # fmt: skip
        torch.save(content, tmp_path / "cliquemining.ckpt")
    for name, file in (("salad", "dino_salad.ckpt"), ("cliquemining", "cliquemining.ckpt")):
        loaded = models.create(name, seed=9, **SMALL).load_official(tmp_path / file)
        assert loaded.weights_digest() == model.weights_digest()
    broken = {k: v for k, v in state.items() if "blocks.7" not in k and k != "aggregator.dust_bin"}
    with pytest.raises(
        ValueError, match=r"of cliquemining: 15 missing: backbone\.model\.blocks\.7"
    ):
        loaded.load_official({"state_dict": broken, "hyper_parameters": {}})
    with pytest.raises(ValueError, match=r"of salad: .*weights of another model"):
        models.create("salad", **SMALL).load_official(models.create("s2dnet").state_dict())
    with pytest.raises(ValueError, match=r"score\.3\.weight is \(16, 48, 1, 1\) and not \(32"):
        models.create("salad", **{**SMALL, "num_clusters": 32}).load_official(state)
    assert loaded.weights_digest() == model.weights_digest()


def test_backbone_alone_is_loaded_for_training(model: Any, tmp_path: Path) -> None:
    torch.save(model.vit.state_dict(), tmp_path / "dinov2_vits14_pretrain.pth")
    start = models.create("salad", seed=11, **SMALL)
    before = {k: v.clone() for k, v in start.aggregator.state_dict().items()}
    assert start.load_backbone(tmp_path / "dinov2_vits14_pretrain.pth") is start
    assert all(torch.equal(v, model.vit.state_dict()[k]) for k, v in start.vit.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in start.aggregator.state_dict().items())
    with pytest.raises(ValueError, match=r"DINOv2 tiny: .*unexpected: aggregator\.dust_bin"):
        start.load_backbone(model.state_dict())


def test_the_last_blocks_and_the_head_are_trained() -> None:
    model = models.create("salad", seed=3, **{**SMALL, "trainable_blocks": 2}).train()
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    trained = ("blocks.10.", "blocks.11.", "model.norm.", "aggregator.")
    assert names == {n for n, _ in model.named_parameters() if any(t in n for t in trained)}
    images = torch.cat([model.preprocess(picture(s, 84, 84)) for s in (1, 2)])
    frozen = {n: v.clone() for n, v in model.named_parameters() if n not in names}
    optimizer = torch.optim.AdamW(model.parameters_to_train(), lr=1e-3)
    before = model.global_descriptors([picture(1, 84, 84), picture(2, 84, 84)])
    assert all(module.training for module in model.modules()), "the mode is as it was"
    np.testing.assert_array_equal(before, model.global_descriptors(
        [picture(1, 84, 84), picture(2, 84, 84)]
    ), "and are not drawn with dropout")  # fmt: skip
    for _ in range(4):  # the two images become alike
        first, second = model(images)
        optimizer.zero_grad()
        (-first @ second).backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters_to_train())
    after = model.global_descriptors([picture(1, 84, 84), picture(2, 84, 84)])
    assert after[0] @ after[1] > before[0] @ before[1] + 0.01
    assert all(torch.equal(v, dict(model.named_parameters())[n]) for n, v in frozen.items())


def test_heat_map_is_what_the_dustbin_leaves(model: Any) -> None:
    wide = models.create("salad", seed=2, **{**SMALL, "size": (70, 112)})
    image = picture(6, 90, 150)
    found = wide.heat_map(image)
    assert found.shape == (5, 8) and found.dtype == np.float32
    with torch.inference_mode():
        p = wide.assignment(wide.preprocess(image))[0].exp()
    np.testing.assert_allclose(found.ravel(), p[:-1].sum(0), atol=2e-6)
    assert found.min() >= 0 and found.max() <= 1 and found.std() > 1e-3
    assert found.mean() == pytest.approx(16 / 40, rel=0.05)


def test_drawn_heat_map_has_the_weights_where_the_patches_are() -> None:
    image = np.full((60, 80, 3), 90, np.uint8)
    weights = np.full((3, 4), 0.1, np.float32)
    weights[2, 1] = 0.5
    drawn = draw_heat_map(image, weights)
    assert drawn.shape == (60, 160, 3) and drawn.dtype == np.uint8
    assert (drawn[:, :80] == 90).all()
    light = drawn[:, 80:].astype(int).sum(2)
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert 40 <= row < 60 and 20 <= column < 40
    assert light[50, 30] > 2 * light[10, 70]
    cooler = draw_heat_map(image, weights, hottest=1.0)[:, 80:].astype(int).sum(2)
    assert cooler[50, 30] < light[50, 30]
    assert draw_heat_map(image, np.zeros((2, 2))).shape == (60, 160, 3)
    for bad in (np.zeros(3), np.full((2, 2), np.nan), np.full((2, 2), -0.1), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="weights must be"):
            draw_heat_map(image, bad)
    with pytest.raises(ValueError, match="hottest"):
        draw_heat_map(image, weights, hottest=0.0)
    with pytest.raises(TypeError, match="hottest"):
        draw_heat_map(image, weights, hottest="most")
    learned = torch.from_numpy(weights).requires_grad_()
    assert np.array_equal(draw_heat_map(image, learned), drawn)


GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not there")


def write_case(folder: Path, golden: Any, case: dict[str, Any], outputs: dict[str, Any]) -> None:
    for part in ("cases", "keys"):
        (folder / part).mkdir()
    shutil.copy(GOLDEN / "golden.py", folder)
    case["outputs"] = {
        name: {"rtol": 1e-4, "digest": golden.digest(value)} for name, value in outputs.items()
    }
    shapes = case["state"].pop("shapes")
    (folder / "keys" / "made.json").write_text(json.dumps({"keys": list(shapes.items())}))
    case["state"]["keys_file"] = "made.json"
    (folder / "cases" / f"{case['case']}.json").write_text(json.dumps(case))


def shapes_of(network: Any) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in network.state_dict().items()}


@needs_golden
def test_an_aggregator_of_another_seed_and_size(tmp_path: Path) -> None:
    """Through the runner that reads the published cases, with outputs from the formulas in float64."""
    golden = golden_parity.load_module(GOLDEN / "golden.py", "golden_fixtures")
    case = json.loads((GOLDEN / "cases" / "salad_aggregator_n200_s1.json").read_text())
    head = SALADHead(30, num_clusters=9, cluster_dim=6, token_dim=10, hidden=21)
    shapes = {f"aggregator.{name}": shape for name, shape in shapes_of(head).items()}
    text = {"patches": 'normal(seed, "patches", (3,30,7,4))', "cls": 'normal(seed, "cls", (3,30))'}
    case |= {"case": "salad_aggregator_n28_s21", "seed": 21, "input": text}
    drawn = golden.random_state(shapes, 21, case["state"]["scale"])
    state = {k.removeprefix("aggregator."): torch.from_numpy(v) for k, v in drawn.items()}
    patches, token = golden.normal(21, "patches", (3, 30, 7, 4)), golden.normal(21, "cls", (3, 30))
    columns = [x.reshape(30, 28).astype(float) for x in patches]
    scores = np.stack([two_layers(x, state, "score", 3) for x in columns])
    plan = [transport_by_hand(s, float(state["dust_bin"]), 3) for s in scores]
    outputs = {
        "scores": scores,
        "features": np.stack([two_layers(x, state, "cluster_features", 3) for x in columns]),
        "token": two_layers(token.T.astype(float), state, "token_features", 2).T,
        "log_assignment": np.log(plan),
        "descriptor": np.stack([
            descriptor_by_hand(state, torch.from_numpy(p), torch.from_numpy(t), 3)
            for p, t in zip(patches, token)
        ]),
    }  # fmt: skip
    case["state"]["shapes"] = shapes
    write_case(tmp_path, golden, case, outputs)
    rows = golden_parity.run(tmp_path)
    assert len(rows) == 5 and all(row.ok for row in rows), golden_parity.table(rows)


@needs_golden
def test_the_network_of_another_seed_and_size(tmp_path: Path) -> None:
    """ViT-S, an image squashed to sides that differ, all outputs in float64 from the published names."""
    golden = golden_parity.load_module(GOLDEN / "golden.py", "golden_fixtures")
    case = json.loads((GOLDEN / "cases" / "salad_full_322x322_s1.json").read_text())
    shapes = shapes_of(models.create("salad", backbone="vits14", **HEADS["512+32"], hidden=40))
    image = golden.random_image(8, 61, 150, "wide")
    resized = pillow.fromarray(image).resize((126, 84), pillow.Resampling.BILINEAR)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = torch.from_numpy(((np.asarray(resized) / 255 - mean) / std).transpose(2, 0, 1))
    entry = {"size_hw": [61, 150], "tag": "wide", "crc32": golden.image_crc(image)}
    case |= {
        "case": "salad_full_84x126_s8", "seed": 8, "input": {"image": entry},
        "preprocessing": "squashed to 84x126 with Pillow bilinear",
    }  # fmt: skip
    drawn = golden.to_torch(golden.random_state(shapes, 8, case["state"]["scale"]))
    of_head, of_vit = (
        {k.removeprefix(start): v for k, v in drawn.items() if k.startswith(start)}
        for start in ("aggregator.", "backbone.model.")
    )
    tokens = tokens_by_hand(of_vit, values, 6)
    patches = tokens[-1][1:].T.reshape(384, 6, 9)
    scores = two_layers(patches.flatten(1).numpy(), of_head, "score", 3)
    outputs = {
        "input": values[None].numpy(), "embed": tokens[0][None].numpy(),
        "block0": tokens[1][None].numpy(), "cls": tokens[-1][:1].numpy(),
        "patches": patches[None].numpy(),
        "log_assignment": np.log(transport_by_hand(scores, float(of_head["dust_bin"]), 3))[None],
        "descriptor": descriptor_by_hand(of_head, patches, tokens[-1][0], 3)[None],
    }  # fmt: skip
    case["state"]["shapes"] = shapes
    write_case(tmp_path, golden, case, outputs)
    rows = golden_parity.run(tmp_path)
    assert len(rows) == 7 and all(row.ok for row in rows), golden_parity.table(rows)
    assert all(row.error < 3e-5 for row in rows), golden_parity.table(rows)
