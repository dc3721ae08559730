# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The plane sweep's Triton kernels against the float64 form: values, masks, gradients, equal bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sweep_scenes import Scene, rotation, scene

import pyloc_core as pl

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

REDUCTIONS = ("mean", "valid_mean", "none")


def run(
    given: Scene, device: Any, dtype: str = "float32", slope: Any = None, **options: Any
) -> list[Any]:
    """Volume, mask, and the gradients of both features, as float64 on the CPU."""
    options = {"implementation": "triton", **options}
    where = device if options["implementation"] == "triton" else "cpu"
    arrays = [x.to(where) for x in given.tensors(dtype)]
    features = [x.requires_grad_() for x in arrays[:2]]
    volume, mask = pl.plane_sweep(*arrays, return_mask=True, **options)
    if slope is None:
        slope = torch.randn(volume.shape, generator=torch.Generator().manual_seed(4))
    volume.backward(slope.to(volume))
    found = (volume.detach(), *(x.grad for x in features))
    volume, *gradients = (x.double().cpu() for x in found)
    return [volume, mask.cpu(), *gradients]


def relative(found: Any, truth: Any) -> float:
    return float((found - truth).abs().max() / truth.abs().max().clamp_min(1e-9))


def errors(given: Scene, device: Any, dtype: str = "float32", **options: Any) -> list[float]:
    """Of the volume, the share of cells whose mask differs, and of the gradients."""
    found = run(given, device, dtype, **options)
    if dtype != "float32":  # the features as they were rounded
        rounded = [x.double().numpy() for x in given.tensors(dtype)[:2]]
        given = given.but(reference=rounded[0], sources=rounded[1])
    truth = run(given, device, "float64", **options, implementation="reference")
    masks = float((found[1] != truth[1]).double().mean())
    pairs = zip((found[0], *found[2:]), (truth[0], *truth[2:]))
    assert all(float(t.abs().max()) > 0 for t in (truth[0], *truth[2:]))
    return [masks, *(relative(a, b) for a, b in pairs)]


@pytest.mark.parametrize("form", ["item", "cell"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_equals_float64(reduce: str, form: str, device: Any) -> None:
    given = scene((2, 2, 5, 1 + (form == "cell"), 41), (6, 9), (7, 8), form=form)
    assert max(errors(given, device, reduce=reduce, num_valid=[2, 1])) < 1e-5


@pytest.mark.parametrize("form", ["shared", "cell"])
@pytest.mark.parametrize("channels", [1, 37])
def test_any_number_of_channels(channels: int, form: str, device: Any) -> None:
    given = scene((1, 1, channels, 2, 43), (5, 13), (9, 4), form=form)
    assert max(errors(given, device)) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 1e-2)])
def test_half_precision(dtype: str, tolerance: float, device: Any) -> None:
    given = scene((1, 2, 16, 2, 45), (6, 9), (7, 8))
    assert max(errors(given, device, dtype)) < tolerance


def zoomed(factor: float, turn: float, size: tuple[int, int], source: tuple[int, int]) -> Scene:
    """A source turned about the optical axis, whose focal length is `factor` of the reference's."""
    given = scene((1, 1, 3, 2, 47), size, source, baseline=0.1)
    K = np.array(
        [[factor * size[1], 0, source[1] / 2], [0, factor * size[1], source[0] / 2], [0, 0, 1.0]]
    )
    pose = given.source_from_reference.copy()
    pose[..., :3] = rotation(np.array([0.02, -0.03, turn]))
    return given.but(K_sources=K[None, None], source_from_reference=pose)


@pytest.mark.parametrize(("factor", "turn"), [(0.2, 0.3), (0.9, 1.57), (4.0, -0.7)])
def test_magnified_and_reduced_sources(factor: float, turn: float, device: Any) -> None:
    """Reduced: more than twenty cells of the reference fall on one of the source; turned: windows are wide."""
    given = zoomed(factor, turn, (8, 11), (7, 9) if factor < 4 else (15, 20))
    assert max(errors(given, device)) < 1e-5


@pytest.mark.parametrize(("angle", "reduce"), [(1.2, "mean"), (1.55, "valid_mean"), (1.35, "none")])
def test_the_horizon_of_a_plane_crosses_a_source(angle: float, reduce: str, device: Any) -> None:
    """Oblique planes: a preimage without end, cells behind the source, an inverse that hardly exists."""
    given = scene((1, 1, 4, 2, 49), (6, 9), (7, 18))
    pose = given.source_from_reference.copy()
    pose[..., :3] = rotation(np.array([0.03, angle, 0.01]))
    pose[..., 2, 3] += 0.4
    given = given.but(source_from_reference=pose)
    masks, *others = errors(given, device, reduce=reduce)
    # Far out on an oblique plane a cell spans many of the source's: float32 moves the samples.
    assert masks < 0.03 and max(others) < 2e-4


def test_planes_and_depths_of_every_cell_have_one_gradient(device: Any) -> None:
    """The gather for planes and the integers for depths of cells, of the same problem."""
    given = scene((1, 2, 6, 1, 51), (6, 9), (9, 12), form="item")
    cells = np.broadcast_to(given.depths[..., None, None], (1, 1, 6, 9)).copy()
    for reduce in ("mean", "none"):
        planes = run(given, device, reduce=reduce)
        found = run(given.but(depths=cells), device, reduce=reduce)
        assert all(relative(a, b) < 1e-6 for a, b in zip(found[2:], planes[2:]))
        assert torch.equal(found[1], planes[1])


def test_everything_behind_the_sources(device: Any) -> None:
    given = scene((1, 1, 4, 2, 53))
    pose = given.source_from_reference.copy()
    pose[..., :3] = rotation(np.array([0.0, np.pi, 0.0]))
    pose[..., 2, 3] = -40.0
    for changes in ({}, {"depths": np.full((1, 2, 6, 9), 2.0)}):
        found = run(given.but(source_from_reference=pose, **changes), device)
        assert not any(x.any() for x in found)


@pytest.mark.parametrize(
    ("reduce", "form"),
    [("none", "item"), ("valid_mean", "item"), ("mean", "cell"), ("none", "cell")],
)
def test_padding_and_repetition_change_no_bit(reduce: str, form: str, device: Any) -> None:
    given = scene((1, 2, 5, 1, 55), form=form)
    wide = scene((1, 3, 5, 1, 56), form=form)
    pose, K = wide.source_from_reference.copy(), wide.K_sources.copy()
    sources = np.full_like(wide.sources, np.nan)  # is not read
    sources[:, :2], pose[:, :2], K[:, :2] = (
        given.sources, given.source_from_reference, given.K_sources,
    )  # fmt: skip
    padded = given.but(sources=sources, source_from_reference=pose, K_sources=K)
    clean = run(given, device, reduce=reduce)
    slope = torch.randn(clean[0].shape, generator=torch.Generator().manual_seed(4))
    if reduce == "none":
        slope = torch.cat([slope, torch.full_like(slope[:, :1], torch.nan)], 1)
    found = run(padded, device, reduce=reduce, num_valid=2, slope=slope)
    for i, axis in ((0, 1 if reduce == "none" else None), (2, None), (3, 1)):
        assert torch.equal(found[i] if axis is None else found[i][:, :2], clean[i])
        assert axis is None or not found[i][:, 2:].any()
    assert all(torch.equal(a, b) for a, b in zip(run(given, device, reduce=reduce), clean))


def test_what_is_not_finite_spoils_only_its_own_item(device: Any) -> None:
    for form in ("item", "cell"):
        given = scene((2, 1, 4, 1, 57), form=form)
        clean = run(given, device)
        reference, sources = given.reference.copy(), given.sources.copy()
        reference[0, 1, 2, 3], sources[0, 0, 2, 3, 4] = np.nan, np.inf
        torch_scene = given.but(reference=reference, sources=sources)
        found = direct(torch_scene, device)
        assert all(not x[0].isfinite().all() for x in found)
        assert all(torch.equal(a[1], b[1]) for a, b in zip(found, (clean[0], *clean[2:])))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("entry", [0, 7, 11])
def test_cameras_and_depths_that_are_not_finite_show(entry: int, reduce: str, device: Any) -> None:
    """They spoil their item, or their plane, and do not look like samples beyond the map."""
    from pyloc_core import _sweep
    from pyloc_core._triton import plane_sweep as kernels

    given = scene((2, 2, 4, 3, 58))
    sweep = _sweep.check_tensors(*[x.to(device) for x in given.tensors("float32")], None)
    features = [x.to(device) for x in given.tensors("float32")[:2]]
    projection, depths = sweep.rounded(sweep.cameras.projection()), sweep.depths
    clean = kernels.forward(*features, projection, depths, None, reduce)
    spoiled = projection.clone()
    spoiled[0, 1].view(-1)[entry] = torch.nan
    found = kernels.forward(*features, spoiled, depths, None, reduce)
    item = found[0, 1] if reduce == "none" else found[0]
    assert item.isnan().float().mean() > 0.9 and torch.equal(found[1], clean[1])
    without = depths.clone()
    without[1, 2] = torch.nan
    found = kernels.forward(*features, projection, without, None, reduce)
    assert found[1].select(-3, 2).isnan().all() and torch.equal(found[0], clean[0])
    assert torch.equal(found[1].narrow(-3, 0, 2), clean[1].narrow(-3, 0, 2))


def direct(given: Scene, device: Any) -> list[Any]:
    """Volume and gradients past the front door, which looks at the values of CPU tensors."""
    from pyloc_core import _sweep
    from pyloc_core._triton import plane_sweep as kernels

    finite = given.but(reference=np.ones_like(given.reference), sources=np.ones_like(given.sources))
    sweep = _sweep.check_tensors(*[x.to(device) for x in finite.tensors("float32")], None)
    features = [x.to(device) for x in given.tensors("float32")[:2]]
    at = (sweep.rounded(sweep.cameras.projection()), sweep.depths, None)
    volume = kernels.forward(*features, *at, "mean")
    slope = torch.randn(volume.shape, generator=torch.Generator().manual_seed(4)).to(device)
    found = (volume, *kernels.backward(*features, *at, slope, "mean"))
    return [x.double().cpu() for x in found]


def test_planes_are_shared_among_programs_of_small_maps() -> None:
    """Every plane in one share, from the shapes alone."""
    from pyloc_core._triton.plane_sweep_gradient import plane_splits

    for programs in (1, 3, 100, 600, 5000):
        for planes in (1, 5, 64, 65):
            splits = plane_splits(programs, planes, 4)
            share = (planes + splits - 1) // splits
            share = (share + 3) // 4 * 4
            assert 1 <= splits <= planes and share * splits >= planes > share * (splits - 1)


def test_empty_batch_and_what_is_refused(device: Any) -> None:
    found = run(scene((0, 2, 3, 2, 59)), device)
    assert found[0].shape == (0, 2, 6, 9) and found[3].shape == (0, 2, 3, 7, 8)
    from pyloc_core._triton import plane_sweep as kernels

    wide = [torch.ones(s, dtype=torch.float64) for s in ((1, 2, 3, 3), (1, 1, 2, 3, 3))]
    with pytest.raises(ValueError, match="float32, float16 and bfloat16"):
        kernels.forward(*wide, torch.ones(1, 1, 3, 4), torch.ones(1, 2), None, "mean")
