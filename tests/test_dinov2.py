# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The vision transformer: against its formulas in float64, its positions, taps, frozen blocks, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dinov2_formulas import noise, positions_by_hand, tokens_by_hand  # noqa: E402

from pyloc_core import models  # noqa: E402
from pyloc_core.models.dinov2 import SIZES, DINOv2, ViTSize  # noqa: E402

TINY = ViTSize(24, 4, 3)


@pytest.fixture(scope="module")
def vit() -> Any:
    """Every parameter at random, so that none can be left out unseen."""
    model = DINOv2(TINY, seed=3).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("grid", [(4, 7), (23, 23), (5, 2), (41, 30)])
def test_positions_are_resized_with_the_published_scale(vit: Any, grid: tuple[int, int]) -> None:
    found = vit.position(*grid).detach()[0]
    np.testing.assert_allclose(found, positions_by_hand(vit.pos_embed, *grid), atol=1e-5)


def test_positions_as_stored_for_the_stored_grid_alone(vit: Any) -> None:
    assert torch.equal(vit.position(37, 37), vit.pos_embed)
    assert vit.position(1, 1369).shape == vit.pos_embed.shape, "as many, but not square"
    assert not torch.allclose(vit.position(1, 1369), vit.pos_embed, atol=1e-2)


def test_forward_against_the_formulas_in_float64(vit: Any) -> None:
    images = noise(1, 2, 3, 42, 70)
    with torch.inference_mode():
        found, token = vit(images)
    assert found.shape == (2, 24, 3, 5) and token.shape == (2, 24)
    for b in range(2):
        x = tokens_by_hand(vit.state_dict(), images[b], 3)[-1]
        np.testing.assert_allclose(token[b], x[0], atol=2e-5)
        np.testing.assert_allclose(found[b].flatten(1).T, x[1:], atol=2e-5)


def test_taps_are_the_tokens_after_each_block(vit: Any) -> None:
    images = noise(2, 1, 3, 28, 42)
    with torch.inference_mode():
        x = vit.embed(images)
        after = []
        for block in vit.blocks:
            x = block(x)
            after.append(x)
        raw = vit.intermediate(images, [3, 1], normalise=False)
        for (patches, token), expected in zip(raw, (after[3], after[1])):
            assert torch.equal(token, expected[:, 0])
            assert torch.equal(patches.flatten(2).transpose(1, 2), expected[:, 1:])
        ((patches, token),) = vit.intermediate(images, [0])
        assert torch.equal(token, vit.norm(after[0])[:, 0])
    for bad in ([], [4], [-1], [1.0], "1"):
        with pytest.raises(ValueError, match="taps must name blocks 0 to 3"):
            vit.intermediate(images, bad)


@pytest.mark.parametrize("trainable", [0, 1, 4, None])
def test_gradients_reach_the_last_blocks_and_no_others(trainable: int | None) -> None:
    model = DINOv2(TINY, seed=3, trainable_blocks=trainable)
    images = noise(3, 1, 3, 28, 42)
    patches, token = model(images)
    whole = DINOv2(TINY, seed=3)
    torch.testing.assert_close(patches, whole(images)[0])
    if trainable == 0:
        assert not patches.requires_grad
        return
    (patches.square().sum() + token.sum()).backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    if trainable is None:
        expected = {name for name, _ in model.named_parameters()} - {"mask_token"}
    else:
        last = tuple(f"blocks.{i}." for i in range(4 - trainable, 4))
        expected = {n for n, _ in model.named_parameters() if n.startswith((*last, "norm."))}
        assert {n for n, v in model.named_parameters() if v.requires_grad} == expected
    assert reached == expected


def test_sizes_are_the_published_ones(shared: Path) -> None:
    lines = (shared / "golden" / "keys" / "keys_SALAD.txt").read_text().splitlines()
    start = "backbone.model."
    names = [x.split("\t") for x in lines if x.startswith(start)]
    published = {name.removeprefix(start): shape for name, shape in names}
    base = DINOv2("vitb14")
    assert {k: str(tuple(v.shape)) for k, v in base.state_dict().items()} == published
    assert sum(v.numel() for v in base.parameters()) == 86_580_480
    assert {k: (s.channels, s.depth) for k, s in SIZES.items() if k != "vitb14"} == {
        "vits14": (384, 12), "vitl14": (1024, 24),
    }  # fmt: skip


def test_weights_of_dinov2_load_under_any_prefix(vit: Any, tmp_path: Path) -> None:
    state = vit.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    prefixed = {f"backbone.model.{k}": v for k, v in state.items()}
    for source in (tmp_path / "plain.pth", prefixed, {"model": state}):
        model = DINOv2(TINY, seed=8)
        assert model.load_pretrained(source) is model
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="1 unexpected: register_tokens"):
        model.load_pretrained({**state, "register_tokens": torch.ones(1, 4, 24)})
    with pytest.raises(ValueError, match=r"DINOv2 vits14: .* missing: blocks\.4"):
        DINOv2("vits14").load_pretrained(state)
    with pytest.raises(ValueError, match="no such checkpoint"):
        model.load_pretrained(tmp_path / "absent.pth")


def test_bad_sizes_and_images(vit: Any) -> None:
    with pytest.raises(ValueError, match="no DINOv2 'vitb16' here; did you mean vitb14"):
        DINOv2("vitb16")
    with pytest.raises(TypeError, match="a name or a ViTSize"):
        DINOv2(14)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of heads"):
        DINOv2(ViTSize(10, 2, 3))
    for bad, message in ((5, "0 to 4, got 5"), (-1, "at least 0")):
        with pytest.raises(ValueError, match=f"trainable_blocks must be {message}"):
            DINOv2(TINY, trainable_blocks=bad)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        DINOv2(TINY, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="trainable_blocks"):
        models.create("salad", backbone="vits14", trainable_blocks=2.0)
    with pytest.raises(ValueError, match="multiples of 14, got 28 x 30"):
        vit(torch.ones(1, 3, 28, 30))
    with pytest.raises(ValueError, match="multiples of 14, got 0 x 14"):
        vit(torch.ones(1, 3, 0, 14))
    for shape in ((3, 28, 28), (1, 1, 28, 28)):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            vit(torch.ones(shape))
