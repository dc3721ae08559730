# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The trunk of NRE and NeurHal: sizes, names, receptive field. Its numbers: tests/golden."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pyloc_core.models.inception import (  # noqa: E402
    MIXED,
    inception_trunk,
    projected_trunk,
    trunk_stride,
)


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("cut", "options", "parameters", "entries"),
    [
        ("Mixed_7a", {}, 12_305_120, 462),
        ("Mixed_6e", {}, 9_557_216, 426),
        ("Mixed_6e", {"no_maxpool": True}, 9_557_216, 426),
        ("Mixed_5d", {"fine": True}, 1_115_680, 162),
    ],
)
def test_parameter_counts_of_the_published_networks(
    cut: str, options: dict[str, bool], parameters: int, entries: int
) -> None:
    network, _ = projected_trunk(cut, **options)
    assert _count(network) == parameters
    assert len(network.state_dict()) == entries


def test_neurhal_cut_has_the_stated_size() -> None:
    """Mixed_6a plus a 1 x 1 convolution to 384 channels: 2.4 M parameters."""
    trunk, channels = inception_trunk("Mixed_6a", no_maxpool=True)
    assert _count(trunk) == 2_144_480 and channels * 384 + 384 == 295_296


@pytest.mark.parametrize("cut", MIXED)
@pytest.mark.parametrize("no_maxpool", [False, True])
def test_sizes_halve_with_ceiling(cut: str, no_maxpool: bool) -> None:
    trunk, channels = inception_trunk(cut, no_maxpool=no_maxpool)
    stride = trunk_stride(cut, no_maxpool=no_maxpool)
    with torch.no_grad():
        out = trunk.eval()(torch.randn(1, 3, 67, 90, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (1, channels, -(-67 // stride), -(-90 // stride))


@pytest.mark.parametrize(("options", "reach"), [({"fine": True}, 21), ({"no_maxpool": True}, None)])
def test_receptive_field(options: dict[str, bool], reach: int | None) -> None:
    """A fine cell at stride 2 sees 43 pixels; what lies further away does not change it."""
    trunk, _ = inception_trunk("Mixed_5d", **options)
    trunk = trunk.double().eval()
    image = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(1)).double()
    image.requires_grad_(True)
    out = trunk(image)
    row = out.shape[2] // 2
    out[0, :, row, row].abs().sum().backward()
    touched = torch.nonzero(image.grad.abs().sum((0, 1)).sum(0) > 0)[:, 0]
    width = int(touched[-1] - touched[0]) + 1
    assert width == 43 if reach else width > 43


def test_unknown_cuts_are_named() -> None:
    with pytest.raises(ValueError, match="Mixed_8z"):
        inception_trunk("Mixed_8z")
    with pytest.raises(ValueError, match="Mixed_6e"):
        inception_trunk("Mixed_6e", fine=True)
