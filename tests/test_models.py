# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What all wrapped networks have in common: names, options, loading, licences, conversion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pyloc_core import models  # noqa: E402
from pyloc_core.models.checkpoint import read_checkpoint  # noqa: E402
from pyloc_core.models.network import Network  # noqa: E402

# Key lists of the published checkpoints, where the golden folder has one per model as it is created.
KEYS = {"s2dnet": "s2dnet.json", "s2dhm": "s2dhm.json"}


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pyloc_core import models\n"
        "from pyloc_core import MissingExtra\n"
        "print(models.available())\n"
        "try: models.create('s2dnet')\n"
        "except MissingExtra as error: print('pyloc_core[torch]' in str(error))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, told = run.stdout.strip().splitlines()
    assert names == str(models.available()) and told == "True"
    assert {"s2dhm", "s2dnet"} <= set(models.available())


def test_unknown_names_and_options_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="no model 's2dne'; did you mean s2dnet"):
        models.create("s2dne")
    with pytest.raises(ValueError, match=r"no model 'xyz'; known: .*s2dhm"):
        models.create("xyz")
    with pytest.raises(TypeError, match="no option 'max_sise'; did you mean max_size"):
        models.create("s2dhm", max_sise=300)
    for bad in ({"max_size": 3}, {"max_size": 512.0}, {"beta": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            models.create("s2dhm", **bad)
    with pytest.raises(ValueError, match="fine_levels"):
        models.create("s2dnet", fine_levels=(0, 3))


@pytest.mark.parametrize("name", sorted(KEYS))
def test_random_weights_follow_the_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (models.create(name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before), "no global generator is touched"
    assert isinstance(first, Network) and not first.training
    assert first.weights_digest() == again.weights_digest() != other.weights_digest()
    assert first.to_dict()["weights"] == first.weights_digest()
    rebuilt = models.create(name, **first.config())
    assert rebuilt.config() == first.config()
    for text in (first.licence.code, first.licence.weights, first.licence.note):
        assert text


@pytest.mark.parametrize("name", sorted(KEYS))
def test_names_and_shapes_are_the_published_ones(name: str, shared: Path) -> None:
    path = shared / "golden" / "keys" / KEYS[name]
    published = {key: tuple(shape) for key, shape in json.loads(path.read_text())["keys"]}
    own = {key: tuple(value.shape) for key, value in models.create(name).state_dict().items()}
    assert own == published


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    return models.create("s2dnet", seed=7).state_dict()


@pytest.mark.parametrize("change", ["plain", "module", "data_parallel", "numpy", "half"])
def test_official_state_dicts_load_under_their_prefixes(weights: Any, change: str) -> None:
    state: Any = dict(weights)
    if change == "module":
        state = {k.replace(".", ".module.", 1): v for k, v in state.items()}
    elif change == "data_parallel":
        state = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 30}
    elif change == "numpy":
        state = {k: v.numpy() for k, v in state.items()}
    elif change == "half":
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    model = models.create("s2dnet")
    assert model.load_official(state) is model
    for key, value in model.state_dict().items():
        expected = weights[key].half().to(value.dtype) if change == "half" else weights[key]
        assert torch.equal(value, expected), key


def test_misfits_are_named_and_change_nothing(weights: Any, tmp_path: Path) -> None:
    model = models.create("s2dnet", seed=1)
    digest = model.weights_digest()
    lacking = {k: v for k, v in weights.items() if "adap_layer_1" not in k}
    with pytest.raises(
        ValueError, match=r"s2dnet: 9 missing: adaptation_layers\.adap_layer_1\.0\.weight"
    ):
        model.load_official(lacking)
    with pytest.raises(ValueError, match=r"1 unexpected: encoder\.30\.weight"):
        model.load_official({**weights, "encoder.30.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"encoder\.0\.bias is \(63,\) and not \(64,\)"):
        model.load_official({**weights, "encoder.0.bias": torch.ones(63)})
    with pytest.raises(ValueError, match=r"encoder\.0\.bias is torch.int64"):
        model.load_official({**weights, "encoder.0.bias": torch.ones(64, dtype=torch.int64)})
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {"conv.weight": torch.ones(3)}}, path)
    with pytest.raises(ValueError, match=r"other\.pth: .*weights of another model"):
        model.load_official(path)
    with pytest.raises(ValueError, match="taps conv1_2, conv2_2"):
        model.load_official({"state_dict": weights, "hypercolumn_layers": ["conv1_2", "conv2_2"]})
    assert model.weights_digest() == digest


def test_images_of_every_kind_and_no_other() -> None:
    model = models.create("s2dnet")
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    pixels = model.preprocess(image)
    assert pixels.shape == (1, 3, 20, 24) and pixels.dtype == torch.float32
    value = (image[5, 7, 1] / 255 - 0.456) / 0.224
    assert float(pixels[0, 1, 5, 7]) == pytest.approx(value, rel=1e-6)
    grey = model.preprocess(image[:, :, 0])
    assert torch.equal(grey, model.preprocess(np.repeat(image[:, :, :1], 3, 2)))
    assert torch.equal(pixels, model.preprocess(image[::-1][::-1].astype(np.float32)))
    for bad in (np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(ValueError, match="image must be"):
            model.preprocess(bad)
    with pytest.raises(ValueError, match="finite"):
        model.preprocess(np.full((20, 20), np.nan))
    with pytest.raises(TypeError, match="uint8"):
        model.preprocess(np.zeros((20, 20), np.int64))
    with pytest.raises(ValueError, match="16 x 16"):
        model.levels(image[:15])


def test_convert_checkpoint(weights: Any, tmp_path: Path) -> None:
    for module in ("typer", "safetensors"):
        pytest.importorskip(module)
    source, out = tmp_path / "in.pth.tar", tmp_path / "deep" / "out.safetensors"
    content = {
        "state_dict": {f"module.{k}": v for k, v in weights.items()},
        "hyper_parameters": {"level": "fine", "image": {"resize": 60}},
        "hypercolumn_layers": ["conv1_2", "conv3_3", "conv5_3"],
        "optimizer": {"momentum": torch.ones(4)},
    }
    torch.save(content, source)
    from typer.testing import CliRunner

    from pyloc_core.cli import app

    done = CliRunner().invoke(
        app, ["convert-checkpoint", str(source), str(out), "--model", "s2dnet"]
    )
    assert done.exit_code == 0, done.output
    assert "53 tensors" in done.output and "left out: optimizer" in done.output
    bad = CliRunner().invoke(app, ["convert-checkpoint", str(tmp_path / "absent"), str(out)])
    assert bad.exit_code == 2 and "no such checkpoint" in bad.output
    found = read_checkpoint(out)
    assert found.hyper_parameters == {"level": "fine", "image": {"resize": 60}}
    model = models.create("s2dnet").load_official(out)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    from pyloc_core.models.convert import convert

    with pytest.raises(
        ValueError, match=r"in\.pth\.tar: these are no weights of s2dhm: .* missing"
    ):
        convert(source, tmp_path / "b.safetensors", model="s2dhm")
    assert not (tmp_path / "b.safetensors").exists()


def test_conversion_keeps_names_without_a_model_and_refuses_bulk(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from pyloc_core.models.convert import convert

    tied = torch.arange(6.0)
    layers: Any = ["x"]
    for _ in range(60):  # 2^60 entries when written out
        layers = [layers, layers]
    loop: Any = []
    loop.append(loop)
    state = {"a.weight": tied, "b.weight": tied, "c": tied.reshape(2, 3).t()}
    content = {"model": state, "args": {"lr": 0.1}, "bulk": layers, "loop": loop}
    torch.save(content, tmp_path / "in.pth")
    done = convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert done.kept == ("args",) and set(done.dropped) == {"bulk", "loop"} and done.tensors == 3
    found = read_checkpoint(tmp_path / "out.safetensors")
    assert found.extra["args"] == {"lr": 0.1}
    assert torch.equal(found.state["c"], tied.reshape(2, 3).t())
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        convert(tmp_path / "in.pth", tmp_path / "out.pth")
