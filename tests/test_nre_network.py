# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The networks of NRE: what their files may hold, and what happens to an image before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from checkpoint_files import Hostile, in_zip, training_program  # noqa: E402

from pyloc_core import models  # noqa: E402
from pyloc_core.models.nre.network import NREConfig, config_of  # noqa: E402
from pyloc_core.models.nre.preprocessing import (  # noqa: E402
    coarse_limit,
    image_tensor,
    interpolate_descriptors,
    keypoints_to_features,
    resized_size,
)


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Any]]:
    """Weights of both stages; the coarse one is cut early, to be small."""
    coarse = models.create("nre_coarse", cut="Mixed_6a", seed=3)
    fine = models.create("nre_fine", seed=4)
    return {"coarse": coarse.state_dict(), "fine": fine.state_dict()}


@pytest.mark.parametrize("cut", ["Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7a"])
@pytest.mark.parametrize("no_maxpool", [False, True])
def test_the_tensors_say_which_network_it_is(cut: str, no_maxpool: bool) -> None:
    other = models.create("nre_coarse", cut=cut, no_maxpool=no_maxpool, seed=1)
    found = config_of(other.state_dict())
    assert found == NREConfig("coarse", cut, no_maxpool)
    net = models.create("nre_coarse", seed=2)
    assert net.load_official(other.state_dict()) is net and not net.training
    assert net.options == found and net.channels == other.channels
    image = torch.randn(1, 3, 40, 70, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = net(image)
        assert torch.equal(out, other(image))
    assert out.shape == (1, net.channels, -(-40 // found.stride), -(-70 // found.stride))


def test_lightning_file_with_leftovers(tmp_path: Path, states: Any) -> None:
    """The container of the published files: hyper-parameters in classes of the training program."""
    path = tmp_path / "coarse.pth"
    with training_program() as program:
        parameters = program.AttributeDict(
            level="coarse", extraction_layer="Mixed_7a", image=program.AttributeDict(resize=64)
        )
        content = {"epoch": 1, "state_dict": states["coarse"], "hyper_parameters": parameters}
        torch.save(content, path)
    net = models.create("nre_coarse").load_official(path)
    # The tensors end at Mixed_6a, whatever the text says; the size is only in the text.
    assert net.options == NREConfig("coarse", "Mixed_6a", False, 64)
    assert net.options.limit == 16 * 64 - 15
    assert all(torch.equal(v, states["coarse"][k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("model", ["nre", "nre_coarse", None])
def test_converted_files(tmp_path: Path, states: Any, model: str | None) -> None:
    pytest.importorskip("safetensors")
    from pyloc_core.models.convert import convert

    content = {"state_dict": states["coarse"], "hyper_parameters": {"image": {"resize": 30}}}
    torch.save(content, tmp_path / "coarse.pth")
    path = tmp_path / "coarse.safetensors"
    assert convert(tmp_path / "coarse.pth", path, model=model).tensors == len(states["coarse"])
    whole = models.create("nre", seed=8).load_official(path)
    assert whole.coarse.options == NREConfig("coarse", "Mixed_6a", False, 30)
    assert all(torch.equal(v, states["coarse"][k]) for k, v in whole.coarse.state_dict().items())
    if model != "nre":
        assert models.create("nre_coarse").load_official(path).options == whole.coarse.options
        with pytest.raises(ValueError, match="holds the coarse network"):
            models.create("nre_fine").load_official(path)


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_files_of_the_other_stage_are_named(stage: str, states: Any, tmp_path: Path) -> None:
    other = "fine" if stage == "coarse" else "coarse"
    net = models.create(f"nre_{stage}", seed=5)
    before = net.weights_digest()
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": states[other]}, path)
    with pytest.raises(ValueError, match=rf"weights\.pth holds the {other} network"):
        net.load_official(path)
    assert net.weights_digest() == before


def test_truncated_misshapen_missing_and_hostile_files(states: Any, tmp_path: Path) -> None:
    net = models.create("nre_fine", seed=6)
    before = net.weights_digest()
    good = tmp_path / "fine.pth"
    torch.save({"state_dict": states["fine"]}, good)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut\.pth"):
        net.load_official(cut)
    first = "cnn.0.conv.weight"
    for change, pattern in (
        ({first: torch.ones(32, 3, 5, 5)}, rf"{first} is \(32, 3, 5, 5\) and not \(32, 3, 3, 3\)"),
        ({"cnn.99.weight": torch.ones(3)}, r"1 unexpected: cnn\.99\.weight"),
    ):
        with pytest.raises(ValueError, match=pattern):
            net.load_official({**states["fine"], **change})
    without = {k: v for k, v in states["fine"].items() if k != first}
    with pytest.raises(ValueError, match=f"1 missing: {first}"):
        net.load_official(without)
    with pytest.raises(ValueError, match="no entry fits"):
        net.load_official({"encoder.0.weight": torch.ones(3)})
    hostile = in_zip(Hostile("os", "system", "exit 3").pickled(2), tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match=r"os\.system"):
        net.load_official(hostile)
    assert net.weights_digest() == before


def test_unknown_options() -> None:
    with pytest.raises(ValueError, match="Mixed_9a"):
        models.create("nre_coarse", cut="Mixed_9a")
    with pytest.raises(ValueError, match="size must be a positive int"):
        models.create("nre_coarse", map_size=0)
    with pytest.raises(TypeError, match="did you mean cut"):
        models.create("nre_coarse", cutt="Mixed_6e")
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        models.create("nre_fine")(torch.ones(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [((480, 640), 640, (480, 640)), ((480, 641), 640, (479, 640)), ((2000, 3000), 945, (630, 945)),
     ((1, 5000), 100, (1, 100)), ((300, 200), None, (300, 200))],
)  # fmt: skip
def test_sizes(size: Any, limit: Any, expected: Any) -> None:
    assert resized_size(size, limit) == expected


def test_limits_follow_from_the_strides() -> None:
    assert coarse_limit(60, "Mixed_7a") == 32 * 60 - 31
    assert coarse_limit(60, "Mixed_6e") == 16 * 60 - 15
    assert coarse_limit(60, "Mixed_6e", no_maxpool=True) == 8 * 60 - 7
    assert coarse_limit(7, "Mixed_5d") == 8 * 7 - 7
    assert NREConfig("fine", "Mixed_7a").limit == 1600 and NREConfig("fine").stride == 2


def test_resizing_is_that_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (97, 141, 3), dtype=np.uint8), (3, 3), 1)
    got = image_tensor(image, 90)[0].permute(1, 2, 0).numpy()
    resized = cv2.resize(image.astype(np.float32), (90, 62), interpolation=cv2.INTER_LINEAR)
    expected = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert got.shape == (62, 90, 3)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    gray = image_tensor(image[..., 0])
    assert gray.shape == (1, 3, 97, 141)


def test_descriptors_at_keypoints() -> None:
    """Bilinear between cells, a part of the border's value up to one cell outside, then nothing."""
    rng = np.random.default_rng(2)
    features = torch.from_numpy(rng.normal(size=(5, 6, 8)).astype(np.float32))
    at = np.array([[2.0, 3.0], [6.5, 3.0], [7.25, 3.0], [3.0, 5.75], [8.5, 3.0], [-90.0, 2.0]])
    got = interpolate_descriptors(features, at).numpy()
    f = features.numpy()
    expected = [f[:, 3, 2], (f[:, 3, 6] + f[:, 3, 7]) / 2, 0.75 * f[:, 3, 7], 0.25 * f[:, 5, 3]]
    np.testing.assert_allclose(got[:4], expected, atol=1e-5)
    assert not got[4:].any()
    # Scaled alone: no half pixel.
    np.testing.assert_allclose(keypoints_to_features([[32.0, 16.0]], (96, 128), (6, 8)), [[2, 1]])
