# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The vision transformer: against its formulas in float64, its positions, taps, frozen blocks, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

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


def pixels(seed: int, *shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normed(x: Any, p: dict[str, Any], name: str) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def block_by_hand(x: Any, p: dict[str, Any], heads: int) -> Any:
    """One image's tokens (T, C), head by head."""
    c = x.shape[1]
    d = c // heads
    qkv = normed(x, p, "norm1") @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]
    outs = []
    for h in range(heads):
        q, k, v = (qkv[:, part * c + h * d : part * c + (h + 1) * d] for part in range(3))
        logits = q @ k.T / math.sqrt(d)
        weight = torch.exp(logits - logits.max(1, keepdim=True).values)
        outs.append(weight / weight.sum(1, keepdim=True) @ v)
    attended = torch.cat(outs, 1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
    x = x + p["ls1.gamma"] * attended
    hidden = normed(x, p, "norm2") @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + p["ls2.gamma"] * (hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"])


def cubic(t: float) -> float:
    """The convolution kernel of Keys with a = -3/4."""
    t, a = abs(t), -0.75
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resize_matrix(cells: int) -> np.ndarray:
    """(cells, 37): weights of the stored cells; the scale is (cells + 0.1) / 37, borders repeat."""
    matrix = np.zeros((cells, 37))
    for i in range(cells):
        at = (i + 0.5) * 37 / (cells + 0.1) - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[i, min(max(tap, 0), 36)] += cubic(at - tap)
    return matrix


def positions_by_hand(vit: Any, rows: int, columns: int) -> np.ndarray:
    stored = vit.pos_embed.detach().double().numpy()[0]
    cells = stored[1:].reshape(37, 37, -1)
    out = np.einsum("ia,jb,abc->ijc", resize_matrix(rows), resize_matrix(columns), cells)
    return np.concatenate([stored[:1], out.reshape(rows * columns, -1)])


@pytest.mark.parametrize("grid", [(4, 7), (23, 23), (5, 2), (41, 30)])
def test_positions_are_resized_with_the_published_scale(vit: Any, grid: tuple[int, int]) -> None:
    found = vit.position(*grid).detach()[0]
    np.testing.assert_allclose(found, positions_by_hand(vit, *grid), atol=1e-5)


def test_positions_as_stored_for_the_stored_grid_alone(vit: Any) -> None:
    assert torch.equal(vit.position(37, 37), vit.pos_embed)
    assert vit.position(1, 1369).shape == vit.pos_embed.shape, "as many, but not square"
    assert not torch.allclose(vit.position(1, 1369), vit.pos_embed, atol=1e-2)


def test_forward_against_the_formulas_in_float64(vit: Any) -> None:
    images = pixels(1, 2, 3, 42, 70)
    p = {k: v.detach().double() for k, v in vit.state_dict().items()}
    with torch.inference_mode():
        found, token = vit(images)
    assert found.shape == (2, 24, 3, 5) and token.shape == (2, 24)
    for b in range(2):
        weight = p["patch_embed.proj.weight"].reshape(24, -1)
        cut = images[b].double().reshape(3, 3, 14, 5, 14)  # channel, row, y, column, x
        patches = cut.permute(1, 3, 0, 2, 4).reshape(15, -1) @ weight.T
        x = torch.cat([p["cls_token"][0], patches + p["patch_embed.proj.bias"]])
        x = x + torch.from_numpy(positions_by_hand(vit, 3, 5))
        for i in range(4):
            here = f"blocks.{i}."
            x = block_by_hand(
                x, {k.removeprefix(here): v for k, v in p.items() if k.startswith(here)}, 3
            )
        x = normed(x, p, "norm")
        np.testing.assert_allclose(token[b], x[0], atol=2e-5)
        np.testing.assert_allclose(found[b].flatten(1).T, x[1:], atol=2e-5)


def test_taps_are_the_tokens_after_each_block(vit: Any) -> None:
    images = pixels(2, 1, 3, 28, 42)
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
    for bad in ([], [4], [-1]):
        with pytest.raises(ValueError, match="taps must name blocks 0 to 3"):
            vit.intermediate(images, bad)


@pytest.mark.parametrize("trainable", [0, 1, 4, None])
def test_gradients_reach_the_last_blocks_and_no_others(trainable: int | None) -> None:
    model = DINOv2(TINY, seed=3, trainable_blocks=trainable)
    images = pixels(3, 1, 3, 28, 42)
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
    with pytest.raises(ValueError, match="multiple of heads"):
        DINOv2(ViTSize(10, 2, 3))
    for bad in (5, -1):
        with pytest.raises(ValueError, match="trainable_blocks must be 0 to 4"):
            DINOv2(TINY, trainable_blocks=bad)
    with pytest.raises(TypeError, match="trainable_blocks"):
        models.create("salad", backbone="vits14", trainable_blocks=2.0)
    with pytest.raises(ValueError, match="multiples of 14, got 28 x 30"):
        vit(torch.ones(1, 3, 28, 30))
    with pytest.raises(ValueError, match="multiples of 14, got 0 x 14"):
        vit(torch.ones(1, 3, 0, 14))
    for shape in ((3, 28, 28), (1, 1, 28, 28)):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
            vit(torch.ones(shape))
