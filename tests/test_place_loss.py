# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss and online selection against the equations written out (thesis, Eqs. 5.3 and 5.4)."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("pytorch_metric_learning")

from torch import nn  # noqa: E402

from pyloc_core._extras import MissingExtra  # noqa: E402
from pyloc_core.training.place_loss import MultiSimilarity, PlaceLoss, gathered  # noqa: E402
from pyloc_core.training.place_options import PlaceOptions  # noqa: E402


def problem(places: int = 6, images: int = 4, spread: float = 1.0, seed: int = 0):
    """Unit descriptors, near in a place, with places near each other; labels."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(16) + 0.7 * rng.standard_normal((places, 16))
    x = np.repeat(centre, images, 0) + 0.6 * spread * rng.standard_normal((places * images, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, np.repeat(np.arange(places), images)


def selected(x: np.ndarray, labels: np.ndarray, margin: float):
    """Pairs by the rule in words: (anchor, positive) and (anchor, negative)."""
    s = x @ x.T
    positives, negatives = set(), set()
    for i in range(len(x)):
        same = [k for k in range(len(x)) if labels[k] == labels[i] and k != i]
        other = [k for k in range(len(x)) if labels[k] != labels[i]]
        hardest_positive, hardest_negative = min(s[i, same]), max(s[i, other])
        positives |= {(i, k) for k in same if s[i, k] < hardest_negative + margin}
        negatives |= {(i, k) for k in other if s[i, k] > hardest_positive - margin}
    return positives, negatives


def as_sets(pairs: tuple) -> tuple[set, set]:
    a1, p, a2, n = (v.tolist() for v in pairs)
    return set(zip(a1, p)), set(zip(a2, n))


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_miner_selects_by_the_rule_with_similarities(margin: float, seed: int) -> None:
    x, labels = problem(seed=seed)
    criterion = MultiSimilarity(PlaceOptions(margin=margin))
    found = as_sets(criterion.selected(torch.from_numpy(x), torch.from_numpy(labels)))
    expected = selected(x, labels, margin)
    assert found == expected
    every = len(x) * (4 - 1), len(x) * (len(x) - 4)
    assert len(expected[0]) > 0 and 0 < len(expected[1]) < every[1]


def test_without_margin_the_rule_is_that_of_the_thesis_with_distances() -> None:
    """Eqs. 5.3 and 5.4 print distances. The order is the same, so without a margin the pairs are; a
    margin of 0.1 on distances is another one than on similarities."""
    x, labels = problem(seed=1)
    d = np.linalg.norm(x[:, None] - x[None], axis=2)

    def by_distance(margin: float) -> tuple[set, set]:
        positives, negatives = set(), set()
        for i in range(len(x)):
            same = np.flatnonzero((labels == labels[i]) & (np.arange(len(x)) != i))
            other = np.flatnonzero(labels != labels[i])
            positives |= {(i, int(k)) for k in same if d[i, k] > d[i, other].min() - margin}
            negatives |= {(i, int(k)) for k in other if d[i, k] < d[i, same].max() + margin}
        return positives, negatives

    assert by_distance(0.0) == selected(x, labels, 0.0)
    assert by_distance(0.1) != selected(x, labels, 0.1)


def test_the_loss_is_its_formula_over_the_selected_pairs() -> None:
    x, labels = problem(seed=2)
    for options in (PlaceOptions(), PlaceOptions(alpha=2.0, beta=40.0, base=0.5, margin=0.2)):
        positives, negatives = selected(x, labels, options.margin)
        s, expected = x @ x.T, 0.0
        for i in range(len(x)):
            near = sum(
                np.exp(-options.alpha * (s[i, k] - options.base)) for a, k in positives if a == i
            )
            far = sum(
                np.exp(options.beta * (s[i, k] - options.base)) for a, k in negatives if a == i
            )
            expected += np.log1p(near) / options.alpha + np.log1p(far) / options.beta
        found = MultiSimilarity(options)(torch.from_numpy(x), torch.from_numpy(labels))
        assert float(found) == pytest.approx(expected / len(x), rel=1e-9)


def test_places_far_apart_cost_nothing_and_have_a_gradient() -> None:
    """Nothing is selected: the loss is zero, and its gradient exists."""
    x = torch.eye(3).repeat_interleave(4, 0).requires_grad_()
    loss = MultiSimilarity(PlaceOptions())(x, torch.arange(3).repeat_interleave(4))
    loss.backward()
    assert float(loss.detach()) == 0 and x.grad is not None and not x.grad.any()


class Given(nn.Module):
    """A network that gives back what is in the pictures' first pixels, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(images.flatten(1) * self.scale, dim=1)


def batch(places: int, images: int, source: int, seed: int, first: int = 0) -> dict:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (places * images, 3, 2, 2), generator=rng, dtype=torch.uint8)
    labels = first + torch.arange(places).repeat_interleave(images)
    return {"images": pixels, "labels": labels, "source": torch.full_like(labels, source)}


@pytest.mark.parametrize("sizes", [(3, 3), (5, 2), (2, 5)])
def test_sources_are_mined_and_summed_apart_also_in_unequal_halves(sizes: tuple[int, int]) -> None:
    """The published slice begins at the other half's size: it is wrong where halves differ."""
    first, second = batch(sizes[0], 3, 0, 1), batch(sizes[1], 3, 1, 2, first=sizes[0])
    mixed = {k: torch.cat([first[k], second[k]]) for k in first}
    model = PlaceLoss(Given(), PlaceOptions(), ("a", "b"))
    losses = model(mixed)
    alone = PlaceLoss(Given(), PlaceOptions())
    second["source"] = torch.zeros_like(second["source"])
    torch.testing.assert_close(losses["a"], alone(first)["places"], rtol=0, atol=1e-6)
    torch.testing.assert_close(losses["b"], alone(second)["places"], rtol=0, atol=1e-6)
    shuffled = torch.randperm(len(mixed["labels"]), generator=torch.Generator().manual_seed(3))
    again = model({k: v[shuffled] for k, v in mixed.items()})
    for name in losses:
        torch.testing.assert_close(losses[name], again[name], rtol=0, atol=1e-5)
    together = alone({**mixed, "source": torch.zeros_like(mixed["source"])})["places"]
    assert abs(float((together - losses["a"]).detach())) > 1e-3


def test_only_what_the_network_names_is_trained() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 4))
    network.parameters_to_train = lambda: network[2].parameters()
    model = PlaceLoss(network, PlaceOptions())
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
    assert len(model.parameter_groups()[0]["params"]) == 2
    network.parameters_to_train = lambda: iter(())
    with pytest.raises(ValueError, match="no parameters to train"):
        PlaceLoss(network, PlaceOptions()).parameter_groups()


def test_pixels_are_normalised_and_checkpoints_hold_the_network_alone() -> None:
    network = nn.Identity()
    model = PlaceLoss(network, PlaceOptions(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    image = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(model.describe(image), torch.full((1, 3, 2, 2), 2.0))
    assert not model.state_dict()
    assert gathered(image) is image  # one process: nothing to do


def test_the_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("pytorch_metric_learning"):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pytorch-metric-learning.*pyloc_core\[training\]"):
        PlaceLoss(Given(), PlaceOptions())
