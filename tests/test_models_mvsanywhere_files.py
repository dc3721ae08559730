# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of MVSAnywhere: both containers, both variants, what is no weight, licences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from checkpoint_files import training_program  # noqa: E402
from mvsanywhere_scene import Scene, small  # noqa: E402

from pyloc_core import models  # noqa: E402
from pyloc_core.models.checkpoint import read_checkpoint  # noqa: E402
from pyloc_core.models.mvsanywhere.matching import BlurPool  # noqa: E402

NAMES = ["mvsanywhere_dot", "mvsanywhere_hero"]
BOTH = pytest.mark.parametrize("name", NAMES)


def published(model: Any, size: tuple[int, int] = (480, 640)) -> dict[str, Any]:
    """The weights with everything else that a published file holds."""
    h, w = size
    return {
        **model.state_dict(),
        "cost_volume.linear_ramp_1d11": torch.linspace(0, 1, 64).view(1, 64, 1, 1),
        "cost_volume.backprojector.pix_coords_13N": torch.zeros(1, 3, h * w // 16),
        "cost_volume.projector.eps": torch.full((1, 1, 1), 1e-8),
        "matching_model.net.3.1.filt": BlurPool(16).filt,
        "compute_normals.backproject.pix_coords_13N": torch.zeros(1, 3, h * w),
        "mv_depth_loss.backproject.pix_coords_13N": torch.zeros(1, 3, h * w),
        "mv_depth_loss.project.eps": torch.full((1, 1, 1), 1e-8),
        "color_aug.transforms.0._param": torch.ones(3),
        "some_loss.pyramid.0.kernel": torch.ones(1, 1, 3, 3),
    }


@BOTH
@pytest.mark.parametrize("container", ["plain", "parallel", "lightning", "safetensors", "mapping"])
def test_every_container(name: str, container: str, tmp_path: Path) -> None:
    trained = models.create(name, seed=9, **small(name).config())
    state, path = published(trained), tmp_path / "weights.ckpt"
    source: Any = path
    if container == "mapping":
        source = {"state_dict": state, "epoch": 3}
    elif container == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        source = tmp_path / "weights.safetensors"
        safetensors.save_file({k: v.contiguous() for k, v in state.items()}, source)
    elif container == "lightning":
        with training_program() as program:
            hyper = {"opts": program.Options()}
            torch.save({"state_dict": state, "hyper_parameters": hyper, "epoch": 40}, path)
        assert read_checkpoint(path).hyper_parameters["opts"]["depth"] == 7
        with pytest.raises(Exception, match=r"(?i)weights_only|unsupported global"):
            torch.load(path, weights_only=True)
    elif container == "parallel":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save(state, path)
    model = small(name)
    assert model.weights_digest() != trained.weights_digest()
    assert model.load_official(source) is model and not model.training
    assert model.weights_digest() == trained.weights_digest()
    scene = Scene.drawn(1, views=2, size=(32, 48))
    with torch.inference_mode():
        assert torch.equal(model(*scene).depth, trained(*scene).depth)


@pytest.mark.parametrize("parallel", [False, True])
def test_the_other_variant_is_named(parallel: bool) -> None:
    for own, other in (NAMES, NAMES[::-1]):
        state = published(small(other))
        if parallel:
            state = {f"module.{k}": v for k, v in state.items()}
        model = small(own)
        digest = model.weights_digest()
        kind = "a" if other.endswith("hero") else "no"
        message = f"these are weights of {other} and not of {own}: they have {kind} metadata MLP"
        with pytest.raises(ValueError, match=message):
            model.load_official({"state_dict": state})
        assert model.weights_digest() == digest


def test_misfits() -> None:
    model = small("mvsanywhere_hero")
    state = published(model)
    lacking = {k: v for k, v in state.items() if k != "cost_volume.mlp.net.4.bias"}
    with pytest.raises(ValueError, match=r"1 missing: cost_volume\.mlp\.net\.4\.bias"):
        model.load_official(lacking)
    with pytest.raises(ValueError, match=r"1 unexpected: cost_volume\.other"):
        model.load_official({**state, "cost_volume.other": torch.ones(2)})
    with pytest.raises(ValueError, match=r"3\.1\.filt is not the binomial kernel"):
        model.load_official({**state, "matching_model.net.3.1.filt": torch.ones(16, 1, 4, 4)})
    with pytest.raises(ValueError, match=r"3\.1\.filt is not the binomial kernel"):
        model.load_official({**state, "matching_model.net.3.1.filt": torch.ones(16, 1, 3, 3)})
    planes = models.create("mvsanywhere_hero", **{**model.config(), "num_depths": 13})
    with pytest.raises(ValueError, match=r"ds_conv_0\.conv1\.weight is \(16, 12, 3, 3\)"):
        planes.load_official(state)
    with pytest.raises(ValueError, match="weights of another model"):
        model.load_official({"conv.weight": torch.ones(3)})
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    assert model.load_official(half).depth_decoder.projects[0].weight.dtype == torch.float32


@pytest.mark.slow
@BOTH
def test_names_and_shapes_are_the_published_ones(name: str, shared: Path) -> None:
    path = shared / "golden" / "keys" / f"{name}.json"
    listed = {key: tuple(shape) for key, shape in json.loads(path.read_text())["keys"]}
    model = models.create(name)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == listed
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 201_667_800 + 2626 * name.endswith("hero")


def test_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pyloc-core convert-checkpoint` checks the names and leaves out what is no weight."""
    pytest.importorskip("safetensors")
    from pyloc_core.models import convert

    monkeypatch.setattr(convert, "model_class", lambda name: lambda: small(name))
    model, path = small("mvsanywhere_dot"), tmp_path / "dot.ckpt"
    with training_program() as program:
        hyper = {"opts": program.Options()}
        torch.save({"state_dict": published(model), "hyper_parameters": hyper}, path)
    done = convert.convert(path, tmp_path / "dot.safetensors", model="mvsanywhere_dot")
    weights = model.state_dict()
    assert done.tensors == len(weights) and done.kept == ("hyper_parameters",)
    read = read_checkpoint(tmp_path / "dot.safetensors")
    assert read.hyper_parameters["opts"]["name"] == "x" and read.state.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in read.state.items())
    with pytest.raises(ValueError, match="weights of mvsanywhere_dot and not of mvsanywhere_hero"):
        convert.convert(path, tmp_path / "hero.safetensors", model="mvsanywhere_hero")


@BOTH
def test_seeds_options_and_licence(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again = small(name), small(name)
    other = models.create(name, **first.config(), seed=4)
    assert torch.equal(torch.random.get_rng_state(), before), "no global generator is touched"
    assert first.weights_digest() == again.weights_digest() != other.weights_digest()
    assert other.config() == first.config() and json.loads(json.dumps(first.config()))
    assert "non-commercial" in first.licence.code and first.licence.weights and first.licence.note
    assert first.to_dict()["name"] == name
    for bad, kind in (
        ({"width": 6}, ValueError), ({"num_depths": 1}, ValueError), ({"backbone": 7}, TypeError),
        ({"backbone": (48, 6, 4)}, ValueError), ({"backbone": "vitb15"}, ValueError),
        ({"backbone": (48, 4, 5)}, ValueError), ({"matching_channels": 0}, ValueError),
    ):  # fmt: skip
        with pytest.raises(kind, match=r"width|num_depths|backbone|vitb14|heads|matching_channels"):
            small(name, **bad)
    with pytest.raises(TypeError, match="no option 'num_depth'; did you mean num_depths"):
        small(name, num_depth=3)


def test_weights_that_training_starts_from() -> None:
    """Encoder and decoder of Depth Anything V2 without its heads, DINOv2 for the other transformer."""
    model, other = (
        small("mvsanywhere_dot"),
        models.create("mvsanywhere_dot", seed=8, **small("mvsanywhere_dot").config()),
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    decoder = {k: v for k, v in other.depth_decoder.state_dict().items() if "_convs." not in k}
    file = {f"pretrained.{k}": v for k, v in other.vit.state_dict().items()}
    file |= {f"depth_head.{k}": v for k, v in decoder.items()}
    file["depth_head.scratch.output_conv1.weight"] = torch.ones(8, 16, 3, 3)
    model.load_start(depth_anything=file)
    model.load_start(dinov2=other.cost_volume_net.model.state_dict())
    loaded = ("encoder.model.", "cost_volume_net.model.", "depth_decoder.")
    for name, value in model.state_dict().items():
        from_file = name.startswith(loaded) and "_convs." not in name
        expected = other.state_dict()[name] if from_file else before[name]
        assert torch.equal(value, expected), name
    for lacking, message in (
        ({k: v for k, v in file.items() if k != "pretrained.norm.bias"}, r"1 missing: norm\.bias"),
        ({k: v for k, v in file.items() if "layer1_rn" not in k}, r"missing: scratch\.layer1_rn"),
        ({"a": torch.ones(2)}, "missing"),
    ):
        with pytest.raises(ValueError, match=message):
            model.load_start(depth_anything=lacking)
