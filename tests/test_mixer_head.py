# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The mixing head: its formula written out, its sizes, what it refuses; a backbone and a head together."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pyloc_core.models.mixer_head import MixerHead  # noqa: E402
from pyloc_core.models.place_network import PlaceNetwork, SmallBackbone  # noqa: E402


def patches(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_head_is_its_formula_in_float64() -> None:
    head = MixerHead(6, (3, 4), channels_out=5, rows_out=2, depth=2, ratio=1.5, seed=3).double()
    x = patches(2, 6, 3, 4).double()
    found = head(x).detach().numpy()
    weights = {k: v.detach().numpy() for k, v in head.state_dict().items()}
    for item in range(2):
        rows = x[item].numpy().reshape(6, 12)
        for block in range(2):
            w = {
                k.split(".", 2)[2]: v
                for k, v in weights.items()
                if k.startswith(f"blocks.{block}.")
            }
            centred = rows - rows.mean(1, keepdims=True)
            normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
            normed = normed * w["norm.weight"] + w["norm.bias"]
            hidden = np.maximum(normed @ w["widen.weight"].T + w["widen.bias"], 0)
            assert hidden.shape == (6, 18)
            rows = rows + hidden @ w["narrow.weight"].T + w["narrow.bias"]
        z = weights["project_channels.weight"] @ rows + weights["project_channels.bias"][:, None]
        out = z @ weights["project_rows.weight"].T + weights["project_rows.bias"]
        expected = out.ravel() / np.linalg.norm(out)
        np.testing.assert_allclose(found[item], expected, rtol=1e-10, atol=1e-12)


def test_sizes_and_unit_length() -> None:
    assert MixerHead(64, (5, 5)).descriptor_size == 4096  # the paper's
    head = MixerHead(8, (4, 4), channels_out=6, rows_out=3, depth=1)
    described = head(patches(3, 8, 4, 4))
    assert described.shape == (3, 18) and head.descriptor_size == 18
    torch.testing.assert_close(described.norm(dim=1), torch.ones(3))
    assert head(patches(0, 8, 4, 4)).shape == (0, 18)


def test_every_position_reaches_every_value() -> None:
    head = MixerHead(8, (4, 4), channels_out=6, rows_out=3, depth=1)
    x = patches(1, 8, 4, 4)
    moved = x.clone()
    moved[..., 3, 3] += 1
    assert (head(x) != head(moved)).all()


def test_gradients_reach_every_weight_and_fit_differences() -> None:
    head = MixerHead(3, (2, 3), channels_out=2, rows_out=2, depth=1, seed=1).double()
    x = patches(2, 3, 2, 3, seed=5).double().requires_grad_()
    assert torch.autograd.gradcheck(head, (x,))
    head(x)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_another_grid_or_width_is_refused() -> None:
    head = MixerHead(8, (4, 4), channels_out=6, rows_out=3, depth=1)
    for shape in ((1, 8, 4, 5), (1, 7, 4, 4), (8, 4, 4)):
        with pytest.raises(ValueError, match=r"patches must be \(B, 8, 4, 4\)"):
            head(patches(*shape))
    for bad in ({"depth": 0}, {"rows_out": True}, {"ratio": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            MixerHead(8, (4, 4), **bad)


def test_half_precision_is_near_full() -> None:
    backbone = SmallBackbone((8, 16), seed=1)
    network = PlaceNetwork(backbone, MixerHead(16, (8, 8), channels_out=8, rows_out=4, depth=2))
    images = patches(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(images)
    assert half.dtype == torch.float32
    assert 0 < float((half - network(images)).detach().norm(dim=1).max()) < 0.05


def test_the_small_backbone_treats_each_picture_by_itself() -> None:
    backbone = SmallBackbone((8, 16), seed=1).train()
    images = patches(3, 3, 32, 48)
    maps, token = backbone(images)
    assert maps.shape == (3, 16, 8, 12)
    torch.testing.assert_close(token, maps.mean((2, 3)))
    torch.testing.assert_close(backbone(images[1:2])[0][0], maps[1])
    first = next(SmallBackbone((8, 16), seed=1).parameters())
    assert torch.equal(first, next(backbone.parameters()))
    with pytest.raises(ValueError, match="widths"):
        SmallBackbone((12,))


def test_a_network_trains_what_its_backbone_has_not_frozen() -> None:
    backbone = SmallBackbone((8,), seed=1)
    head = MixerHead(8, (4, 4), channels_out=4, rows_out=1, depth=1)
    every = PlaceNetwork(backbone, head)
    assert {id(p) for p in every.parameters_to_train()} == {id(p) for p in every.parameters()}
    backbone.requires_grad_(False).first.bias.requires_grad_(True)
    few = list(PlaceNetwork(backbone, head).parameters_to_train())
    assert few[0] is backbone.first.bias and len(few) == 1 + len(list(head.parameters()))
