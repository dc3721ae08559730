# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The head of SALAD: against its formulas in float64, its gradients, on other backbones, bad input."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dinov2_formulas import noise  # noqa: E402
from salad_formulas import descriptor_by_hand, transport_by_hand, two_layers  # noqa: E402

from pyloc_core.models.place_network import PlaceNetwork, SmallBackbone  # noqa: E402
from pyloc_core.models.salad.head import HEADS, SALADHead  # noqa: E402


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"token_dim": 0, "num_clusters": 3, "cluster_dim": 5},
        {**HEADS["512+32"], "iterations": 7},
        HEADS["2048+64"],
    ],
)
def test_head_against_the_formulas_in_float64(options: dict[str, int]) -> None:
    head = SALADHead(20, seed=4, **options).eval()
    with torch.no_grad():
        head.dust_bin.fill_(0.7)
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(noise(len(name), *parameter.shape))
    patches, token = noise(1, 2, 20, 8, 13), noise(2, 2, 20)
    with_token = options.get("token_dim", 256) > 0
    with torch.inference_mode():
        found = head(patches, token if with_token else None)
        logs = head.log_assignment(patches)
    assert found.shape == (2, head.descriptor_size)
    state = head.state_dict()
    steps = options.get("iterations", 3)
    for b in range(2):
        expected = descriptor_by_hand(state, patches[b], token[b], steps)
        np.testing.assert_allclose(found[b], expected, atol=2e-6)
        scores = two_layers(patches[b].double().flatten(1).numpy(), state, "score", 3)
        p = transport_by_hand(scores, 0.7, steps)
        np.testing.assert_allclose(logs[b], np.log(p), atol=2e-4)
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(2, 104))
    if with_token:  # one unit vector beside m of them
        share = found[:, : head.token_dim].norm(dim=1)
        torch.testing.assert_close(share, torch.full((2,), (1 + head.num_clusters) ** -0.5))


def test_sizes_of_the_thesis() -> None:
    """It prints 15 clusters of 32 for 512 values."""
    assert {name: SALADHead(8, **options).descriptor_size for name, options in HEADS.items()} == {
        "8192+256": 8448, "2048+64": 2112, "512+32": 544,
    }  # fmt: skip


def test_the_score_of_the_dustbin_moves_nothing() -> None:
    """Rows are updated first, which takes up what is constant along a row: z has no gradient."""
    head = SALADHead(8, **HEADS["512+32"]).eval()
    patches, token = noise(1, 2, 8, 6, 6), noise(2, 2, 8)
    before = head(patches, token)
    (gradient,) = torch.autograd.grad(before.cumsum(1).square().sum(), [head.dust_bin])
    assert abs(float(gradient)) < 1e-3
    with torch.no_grad():
        head.dust_bin.fill_(-6.0)
    torch.testing.assert_close(head(patches, token), before, atol=1e-6, rtol=0)


def test_head_refuses_what_it_cannot_assign() -> None:
    head = SALADHead(8, **HEADS["512+32"]).eval()
    with pytest.raises(ValueError, match="more patches than clusters, got 4 x 4 patches for 16"):
        head(noise(1, 1, 8, 4, 4), noise(2, 1, 8))
    assert torch.isfinite(head(noise(1, 1, 8, 17, 1), noise(2, 1, 8))).all(), "one for the dustbin"
    with pytest.raises(ValueError, match=r"patches must be \(B, 8, h, w\), got \(1, 9, 5, 5\)"):
        head(noise(1, 1, 9, 5, 5), noise(2, 1, 8))
    with pytest.raises(ValueError, match="token_dim 32 was given no token"):
        head(noise(1, 1, 8, 5, 5))
    with pytest.raises(ValueError, match=r"token must be \(1, 8\), got \(2, 8\)"):
        head(noise(1, 1, 8, 5, 5), noise(2, 2, 8))
    with pytest.raises(TypeError, match="patches must be a tensor, got ndarray"):
        head(np.ones((1, 8, 5, 5)), noise(2, 1, 8))
    for option, bad, kind in (
        ("num_clusters", 0, ValueError), ("token_dim", -1, ValueError), ("seed", -1, ValueError),
        ("dropout", 1.0, ValueError), ("dropout", "no", TypeError), ("hidden", 3.5, TypeError),
    ):  # fmt: skip
        with pytest.raises(kind, match=f"{option} must be"):
            SALADHead(8, **{option: bad})


def test_a_head_without_token_on_a_backbone_that_gives_one() -> None:
    head = SALADHead(8, num_clusters=np.int64(3), cluster_dim=4, token_dim=0).eval()
    network = PlaceNetwork(SmallBackbone((8,)), head).eval()
    images = noise(1, 2, 3, 20, 24)
    found = network(images)
    torch.testing.assert_close(found, head(network.backbone(images)[0]))
    assert found.shape == (2, 12)
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) and have pixels"):
        network(images[:, :, :0])
    for bad, kind in ((8, TypeError), ((8.0,), TypeError), ((12,), ValueError), ((), ValueError)):
        with pytest.raises(kind, match="widths must be"):
            SmallBackbone(bad)


def test_head_trains_on_any_backbone() -> None:
    """Gradients of all parameters in float64 against finite differences; dropout in training alone."""
    head = (
        SALADHead(6, num_clusters=3, cluster_dim=4, token_dim=2, hidden=5, seed=1).eval().double()
    )
    patches, token = noise(3, 2, 6, 3, 4).double(), noise(4, 2, 6).double()
    direction = noise(5, 2, head.descriptor_size).double()
    parameters = dict(head.named_parameters())
    loss = (head(patches, token) * direction).sum()
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))
    for name, parameter in parameters.items():
        step = 1e-6 * noise(6, *parameter.shape).double()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step
                values.append(float((head(patches, token) * direction).sum()))
                parameter -= sign * step
        change = float((gradients[name] * step).sum())
        assert (values[0] - values[1]) / 2 == pytest.approx(change, rel=1e-4, abs=1e-13), name
    drawn = [head.train()(patches, token) for _ in range(2)]
    assert not torch.allclose(drawn[0], drawn[1])
