# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Cost volumes behind SimpleRecon's interface: published volumes, a plain loop, the border's conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import golden_parity
import torch
from golden_draws import drawn

from pyloc_core.integrations.simplerecon import DotProductVolume, ViewAgnosticVolume

SIZE = (10, 14)


def problem(views: int = 3, seed: int = 0, dtype: Any = torch.float32) -> dict[str, Any]:
    """Arguments of `forward` for two items, as float32 tensors."""
    rng = np.random.default_rng(seed)
    K = np.eye(4)
    K[:2, :3] = [[12.0, 0, 7.2], [0, 12.5, 4.9]]
    extrinsics = np.tile(np.eye(4), (2, views, 1, 1))
    for pose in extrinsics.reshape(-1, 4, 4):
        angle = rng.normal(0, 0.05)
        c, s = np.cos(angle), np.sin(angle)
        pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        pose[:3, 3] = rng.normal(0, 0.2, 3)
    arrays = {
        "cur_feats": rng.normal(size=(2, 4, *SIZE)), "src_feats": rng.normal(size=(2, views, 4, *SIZE)),
        "src_extrinsics": extrinsics, "src_poses": np.linalg.inv(extrinsics),
        "src_Ks": np.tile(K, (2, views, 1, 1)), "cur_invK": np.tile(np.linalg.inv(K), (2, 1, 1)),
        "min_depth": np.full((2, 1, 1, 1), 0.8), "max_depth": np.full((2, 1, 1, 1), 6.0),
    }  # fmt: skip
    return {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}


def loop(given: dict[str, Any], planes: Any) -> tuple[Any, Any, Any]:
    """(dot, seen in front per view (B, V, D, H, W), pixels) by grid_sample, plane by plane, in the interface's
    own convention: cell centres at 0.5, normalised by the size."""
    h, w = SIZE
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    cells = torch.stack([x, y, torch.ones_like(x), torch.ones_like(x)]).flatten(1)
    total = torch.zeros(2, planes.shape[1], h, w)
    pixels = []
    views = given["src_feats"].shape[1]
    for v in range(views):
        P = given["src_Ks"][:, v] @ given["src_extrinsics"][:, v]
        for k in range(planes.shape[1]):
            rays = (given["cur_invK"] @ cells)[:, :3] * planes[:, k].reshape(2, 1, -1)
            points = P @ torch.cat([rays, torch.ones(2, 1, h * w)], 1)
            uv = points[:, :2] / points[:, 2:3]
            grid = (2 * uv / torch.tensor([w, h])[:, None] - 1).transpose(1, 2).reshape(2, h, w, 2)
            warped = torch.nn.functional.grid_sample(
                given["src_feats"][:, v], grid, align_corners=False
            )
            front = (points[:, 2] > 0).reshape(2, h, w)
            total[:, k] += (warped * given["cur_feats"]).sum(1) * front
            pixels.append((uv.reshape(2, 2, h, w), front))
    return total / views, pixels, views


def test_dot_volume_is_that_of_a_loop_over_grid_sample() -> None:
    given = problem()
    volume, lowest, planes, mask = DotProductVolume(*SIZE, 8)(**given)
    expected_planes = torch.exp(torch.linspace(np.log(0.8), np.log(6.0), 8))
    torch.testing.assert_close(planes, expected_planes[None, :, None, None].expand(2, 8, *SIZE))
    expected, _, _ = loop(given, planes)
    torch.testing.assert_close(volume, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(lowest, planes.gather(1, expected.argmax(1, keepdim=True))[:, 0])
    assert mask is None


def test_planes_of_every_cell_and_the_mask_at_the_last_one() -> None:
    given = problem()
    own = torch.rand(2, 6, *SIZE, generator=torch.Generator().manual_seed(1)).cumsum(1) + 0.5
    volume, _, planes, mask = DotProductVolume(*SIZE)(
        **given, depth_planes_bdhw=own, return_mask=True
    )
    assert planes is own
    expected, pixels, views = loop(given, own)
    torch.testing.assert_close(volume, expected, rtol=1e-4, atol=2e-4)
    front = torch.zeros(2, *SIZE, dtype=torch.bool)
    inside = torch.zeros(2, *SIZE, dtype=torch.bool)
    for v in range(views):
        (u, w_), seen = pixels[v * 6 + 5][0].unbind(1), pixels[v * 6 + 5][1]
        front |= seen
        inside |= (u > 2) & (u < SIZE[1] - 2) & (w_ > 2) & (w_ < SIZE[0] - 2)
    assert torch.equal(mask, front & inside) and mask.any() and not mask.all()


def test_gradients_reach_features_and_network() -> None:
    torch.manual_seed(0)
    manager = ViewAgnosticVolume(*SIZE, 6, matching_dim_size=4)
    given = problem(views=2)
    for name in ("cur_feats", "src_feats"):
        given[name].requires_grad_()
    volume, *_ = manager(**given)
    assert volume.shape == (2, 6, *SIZE)
    volume.square().mean().backward()
    for tensor in (given["cur_feats"], given["src_feats"], *manager.mlp.net.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0


def test_number_and_order_of_views_are_free() -> None:
    torch.manual_seed(0)
    manager = ViewAgnosticVolume(*SIZE, 6, matching_dim_size=4)
    for views in (1, 5):
        given = problem(views)
        with torch.inference_mode():
            volume = manager(**given)[0]
            flipped = {k: v.flip(1) if k.startswith("src") else v for k, v in given.items()}
            torch.testing.assert_close(manager(**flipped)[0], volume, rtol=1e-4, atol=1e-5)


def test_scalar_ranges_and_a_published_state() -> None:
    given = problem()
    expected = DotProductVolume(*SIZE, 8)(**given)[0]
    given |= {"min_depth": 0.8, "max_depth": torch.tensor(6.0)}
    torch.testing.assert_close(
        DotProductVolume(*SIZE, 8)(**given)[0], expected, rtol=1e-5, atol=1e-5
    )
    manager = ViewAgnosticVolume(*SIZE)
    state = {f"mlp.net.{i}.{part}": torch.ones_like(getattr(manager.mlp.net[i], part))
             for i in (0, 2, 4) for part in ("weight", "bias")}  # fmt: skip
    buffers = {"linear_ramp_1d11": torch.ones(1, 64, 1, 1), "projector.eps": torch.ones(1, 1, 1),
               "backprojector.pix_coords_13N": torch.ones(1, 3, 19200)}  # fmt: skip
    manager.load_state_dict({**state, **buffers})
    assert all((p == 1).all() for p in manager.parameters())
    assert sum(p.numel() for p in manager.parameters()) == 2626  # as the published one
    with pytest.raises(RuntimeError, match="Unexpected"):
        manager.load_state_dict({**state, "other": torch.ones(1)})


def test_programs_may_say_the_number_of_channels_and_views() -> None:
    given = problem()
    told = DotProductVolume(*SIZE, 8, matching_dim_size=4, num_source_views=7)
    assert torch.equal(told(**given)[0], DotProductVolume(*SIZE, 8)(**given)[0])
    with pytest.raises(ValueError, match=r"cur_feats must have shape \(B, 16, 10, 14\)"):
        ViewAgnosticVolume(*SIZE, num_source_views=7)(**given)
    with pytest.raises(ValueError, match="num_source_views"):
        DotProductVolume(*SIZE, num_source_views=0)


@pytest.mark.parametrize(
    "changes,name",
    [({"cur_feats": torch.ones(2, 4, 3, 3)}, "cur_feats"), ({"min_depth": 7.0}, "near"),
     ({"min_depth": torch.ones(3)}, "min_depth"), ({"src_Ks": torch.ones(2, 3, 3, 3)}, "src_Ks"),
     ({"cur_invK": torch.zeros(2, 4, 4)}, "cur_invK"), ({"src_poses": torch.ones(2, 3, 4, 4)}, "src_poses"),
     ({"src_feats": torch.ones(2, 3, 5, *SIZE)}, "sources"),
     ({"depth_planes_bdhw": torch.ones(2, 3, 4, 4)}, "depth_planes_bdhw")],
)  # fmt: skip
def test_bad_input(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        DotProductVolume(*SIZE)(**{**problem(), **changes})


@pytest.mark.parametrize("views", [1, 3, 7])
def test_published_volumes(shared, views) -> None:
    """The recorded outputs of the published managers for seeded features."""
    golden = golden_parity.load_module(shared / "golden" / "golden.py", "golden_fixtures")
    case = golden.load_case(str(shared / "golden" / "cases" / f"mvsa_volume_{views}src_s1.json"))
    inputs = case["input"]
    cur, src = (
        torch.from_numpy(drawn(inputs[f"{side}_features"], golden, case["seed"]))
        for side in ("ref", "src")
    )
    world = {side: np.array(inputs[f"{side}_world_T_cam"]) for side in ("ref", "src")}
    extrinsics = np.linalg.inv(world["src"]) @ world["ref"]
    matrices = {
        "src_extrinsics": extrinsics, "src_poses": np.linalg.inv(extrinsics),
        "src_Ks": np.array(inputs["src_K_matching"]).reshape(views, 4, 4),
        "cur_invK": np.linalg.inv(np.array(inputs["ref_K_matching"]).reshape(4, 4)),
    }  # fmt: skip
    given = {name: torch.from_numpy(m)[None].float() for name, m in matrices.items()}
    given |= {"cur_feats": cur, "src_feats": src}
    given |= {"min_depth": inputs["min_depth"], "max_depth": inputs["max_depth"]}
    dot, hero = DotProductVolume(24, 32), ViewAgnosticVolume(24, 32)
    state = golden.to_torch(golden.case_state(case))
    hero.load_state_dict({k.removeprefix("cost_volume."): v for k, v in state.items()})
    outputs: dict[str, Any] = {}
    with torch.inference_mode():
        outputs["dot"], outputs["dot_lowest_cost"], planes, _ = dot(**given)
        outputs["hero"], outputs["hero_lowest_cost"], _, mask = hero(**given, return_mask=True)
    outputs |= {"hero_mask": mask.long(), "src_T_ref": given["src_extrinsics"]}
    shape = case["outputs"]["depth_planes"]["digest"]["shape"]
    outputs["depth_planes"] = (
        planes if len(shape) == 4 and shape[-1] > 1 else planes[..., :1, :1].reshape(shape)
    )
    assert set(outputs) == set(case["outputs"])
    checked = golden.check(case, {name: value.numpy() for name, value in outputs.items()})
    assert all(ok for ok, _ in checked.values()), checked
