# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Maps padded beyond the image, made from tensors on the device: they keep their origin."""

from __future__ import annotations

from typing import Any

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def test_loss_maps_keep_their_origin(device: Any) -> None:
    g = torch.Generator().manual_seed(3)
    h, features = torch.randn(4, 8, generator=g), torch.randn(8, 12, 16, generator=g)
    options = {"origin": (-4, -3), "max_entries": 32}
    native = pl.loss_maps(h, features, **options)
    found = pl.loss_maps(h.to(device), features.to(device), implementation="triton", **options)
    assert isinstance(found, pl.DeviceLossMaps)
    assert (found.origin, found.image_cells) == ((-4, -3), (6, 8))
    back = found.cpu()
    assert (back.origin, back.image_cells) == (native.origin, native.image_cells)
    assert (back.argmin().xy == native.argmin().xy).all()
    assert back.log_cardinality == native.log_cardinality
    with pytest.raises(ValueError, match="no image"):
        pl.loss_maps(h.to(device), features.to(device), implementation="triton", origin=(-8, 0))
