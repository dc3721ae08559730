# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Cost volumes behind the interface of SimpleRecon-style cost volume managers, to be swapped in.

The interface (names and order of the arguments, the four results) is the public one of that family; the
arithmetic is `plane_sweep` and `metadata_cost_volume`. There matrices are 4 x 4 and intrinsics count from
cell edges (the first cell's centre is 0.5); here half a cell is taken off at the border.

    manager = DotProductVolume(matching_height=120, matching_width=160, num_depth_bins=64)
    cost_volume, lowest_cost, planes_bdhw, mask_bhw = manager(
        cur_feats, src_feats, src_extrinsics, src_poses, src_Ks, cur_invK, min_depth, max_depth)

SimpleRecon's own metadata volume is not here: it joins the metadata of a fixed number of views in one
network. `ViewAgnosticVolume` is MVSAnywhere's, for any number of views.
"""

from __future__ import annotations

from typing import Any

from pyloc_core import _tensors
from pyloc_core._checks import integer
from pyloc_core._extras import require
from pyloc_core.depth_planes import log_depth_planes
from pyloc_core.ops.metadata_cost_volume import metadata_cost_volume
from pyloc_core.ops.plane_sweep import plane_sweep

__all__ = ["DotProductVolume", "ViewAgnosticVolume"]

torch = require("torch", "SimpleRecon's interface")
from pyloc_core.models.mvsanywhere.cameras import overall_mask  # noqa: E402 (needs torch)
from pyloc_core.models.mvsanywhere.variants import MetadataMLP  # noqa: E402

# Buffers of published checkpoints that depend on the resolution alone.
_DERIVED = ("linear_ramp_1d11", "backprojector.pix_coords_13N", "projector.eps")


class _CostVolume(torch.nn.Module):  # type: ignore[misc,name-defined]
    """What both volumes share: planes, cameras, the depth of the best plane, the mask.

    Args:
        matching_height, matching_width: of the feature maps.
        num_depth_bins: planes.
        matching_dim_size: channels of the features, checked if given.
        num_source_views: only for programs that say it: any number of views is taken.
    """

    def __init__(
        self,
        matching_height: int,
        matching_width: int,
        num_depth_bins: int = 64,
        matching_dim_size: int | None = None,
        num_source_views: int | None = None,
    ) -> None:
        super().__init__()
        channels = matching_dim_size
        self.matching_dim_size = (
            None if channels is None else integer("matching_dim_size", channels, 1)
        )
        if num_source_views is not None:
            integer("num_source_views", num_source_views, 1)
        self.matching_height = integer("matching_height", matching_height, 1)
        self.matching_width = integer("matching_width", matching_width, 1)
        self.num_depth_bins = integer("num_depth_bins", num_depth_bins, 2)

    def forward(
        self,
        cur_feats: Any,
        src_feats: Any,
        src_extrinsics: Any,
        src_poses: Any,
        src_Ks: Any,
        cur_invK: Any,
        min_depth: Any,
        max_depth: Any,
        depth_planes_bdhw: Any = None,
        return_mask: bool = False,
    ) -> tuple[Any, Any, Any, Any]:
        """Cost volume of one reference and V source views.

        Args:
            cur_feats: (B, C, H, W) reference features, (H, W) the size given to the constructor.
            src_feats: (B, V, C, Hs, Ws), any V >= 1.
            src_extrinsics: (B, V, 4, 4) source from reference.
            src_poses: (B, V, 4, 4) reference from source, the inverse. On the CPU ValueError where it is
                not; it carries nothing else.
            src_Ks: (B, V, 4, 4) intrinsics at the resolution of the source maps, from cell edges.
            cur_invK: (B, 4, 4) inverse intrinsics at that of the reference map, from cell edges.
            min_depth, max_depth: numbers, or tensors of B values or one, such as (B, 1, 1, 1).
            depth_planes_bdhw: (B, D, H, W) depths of every cell; None: logarithmic between the two.
            return_mask: make the mask.

        Returns:
            cost_volume (B, D, H, W); lowest_cost (B, H, W), depth of the plane with the highest value;
            depth_planes_bdhw (B, D, H, W); overall_mask_bhw (B, H, W) bool, or None without return_mask:
            cells which at the last plane lie in front of some source and, in some source, more than two
            cells within its map. Gradients reach the features and the network's weights.

        Raises:
            ValueError, TypeError: as `plane_sweep`, `metadata_cost_volume`, `log_depth_planes`.
        """
        size = (self.matching_height, self.matching_width)
        shape = tuple(getattr(cur_feats, "shape", ()))
        channels = self.matching_dim_size
        if len(shape) != 4 or shape[2:] != size or channels not in (None, shape[1]):
            wanted = ", ".join(map(str, ("B", channels or "C", *size)))
            raise ValueError(f"cur_feats must have shape ({wanted}), got {shape}")
        batch = len(cur_feats)
        near, far = (
            self._ends(x, name, cur_feats)
            for x, name in ((min_depth, "min_depth"), (max_depth, "max_depth"))
        )
        cameras = _cameras(cur_invK, src_Ks, src_extrinsics, src_poses, batch)
        if depth_planes_bdhw is None:
            planes = log_depth_planes(near, far, self.num_depth_bins)
            every_cell = planes[:, :, None, None].expand(-1, -1, *size)
        else:
            every_cell = planes = _tensors.check(
                depth_planes_bdhw, "depth_planes_bdhw", shape=(batch, "D", *size), dtype="float32"
            )
        volume = self.volume(cur_feats, src_feats, cameras, planes, (near, far))
        best = volume.detach().argmax(1, keepdim=True)
        lowest_cost = every_cell.gather(1, best)[:, 0]
        mask = None
        if return_mask:
            last = every_cell[:, -1]
            height, width = src_feats.shape[-2:]
            K_reference, K_sources, poses = (each.to(last.device) for each in cameras)
            mask = overall_mask(K_reference, K_sources, poses, last, (height, width))
        return volume, lowest_cost, every_cell, mask

    def volume(
        self, cur: Any, src: Any, cameras: tuple[Any, Any, Any], planes: Any, ends: tuple[Any, Any]
    ) -> Any:
        """(B, D, H, W); cameras: K_reference, K_sources in map coordinates, source_from_reference."""
        raise NotImplementedError

    @staticmethod
    def _ends(value: Any, name: str, feats: Any) -> Any:
        """(B,) float32 on the device of the features."""
        given = torch.as_tensor(value, dtype=torch.float32, device=feats.device).detach().flatten()
        if len(given) not in (1, len(feats)):
            raise ValueError(f"{name} must hold one value or {len(feats)}, got {len(given)}")
        return given.expand(len(feats))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        for name in _DERIVED:
            state.pop(prefix + name, None)
        super()._load_from_state_dict(state, prefix, *rest)


class DotProductVolume(_CostVolume):
    """Mean over the source views of the inner products in front of them: `plane_sweep`.

    Args:
        matching_height, matching_width: of the feature maps.
        num_depth_bins: planes.
        matching_dim_size: channels of the features, checked if given.
        num_source_views: only for programs that say it: any number of views is taken.
    """

    def volume(
        self, cur: Any, src: Any, cameras: tuple[Any, Any, Any], planes: Any, ends: tuple[Any, Any]
    ) -> Any:
        return plane_sweep(cur, src, *cameras, planes)


class ViewAgnosticVolume(_CostVolume):
    """MVSAnywhere's volume: a score and a weight per view from features and geometry, `metadata_cost_volume`.

    Its parameters carry the published names (mlp.net.0.weight ...); buffers of published checkpoints that
    depend on the resolution are passed over when a state is loaded.

    Args:
        matching_height, matching_width, num_depth_bins, matching_dim_size, num_source_views: as of
            `DotProductVolume`, 16 channels unless told otherwise.
        hidden: size of the two hidden layers.
        scale_invariant: as of `metadata_cost_volume`.
    """

    def __init__(
        self,
        matching_height: int,
        matching_width: int,
        num_depth_bins: int = 64,
        matching_dim_size: int = 16,
        num_source_views: int | None = None,
        *,
        hidden: int = 32,
        scale_invariant: bool = False,
    ) -> None:
        super().__init__(
            matching_height, matching_width, num_depth_bins, matching_dim_size, num_source_views
        )
        self.mlp = MetadataMLP(matching_dim_size, integer("hidden", hidden, 1))
        self.scale_invariant = bool(scale_invariant)

    def volume(
        self, cur: Any, src: Any, cameras: tuple[Any, Any, Any], planes: Any, ends: tuple[Any, Any]
    ) -> Any:
        return metadata_cost_volume(
            cur, src, *cameras, planes, self.mlp.weights, depth_limits=torch.stack(ends, -1),
            scale_invariant=self.scale_invariant,
        )  # fmt: skip


def _cameras(
    cur_invK: Any, src_Ks: Any, src_extrinsics: Any, src_poses: Any, batch: int
) -> tuple[Any, Any, Any]:
    """(K_reference, K_sources, source_from_reference) in float64, intrinsics in map coordinates."""
    given = {
        "cur_invK": cur_invK,
        "src_Ks": src_Ks,
        "src_extrinsics": src_extrinsics,
        "src_poses": src_poses,
    }
    checked = {}
    for name, matrix in given.items():
        views = () if name == "cur_invK" else ("V",)
        checked[name] = _tensors.check(matrix, name, shape=(batch, *views, 4, 4)).detach()
    inverse, Ks, extrinsics, poses = checked.values()
    if extrinsics.device.type == "cpu":
        identity = torch.eye(4, dtype=torch.float64)
        scale = 1 + extrinsics[..., :3, 3].abs().amax() if extrinsics.numel() else 1.0
        if (
            extrinsics.shape == poses.shape
            and ((extrinsics @ poses - identity).abs() > 1e-3 * scale).any()
        ):
            raise ValueError("src_poses must be the inverses of src_extrinsics")
    K = _inverse(inverse[:, :3, :3], "cur_invK")
    return _from_edges(K), _from_edges(Ks[..., :3, :3]), extrinsics[..., :3, :]


def _inverse(matrix: Any, name: str) -> Any:
    """Nothing waits for a device: there what is singular becomes NaN or infinite."""
    found, info = torch.linalg.inv_ex(matrix)
    if matrix.device.type == "cpu" and info.any():
        raise ValueError(f"{name} is singular")
    return found


def _from_edges(K: Any) -> Any:
    """Intrinsics that count from cell edges as ones that count from the first cell's centre."""
    shifted = K.clone()
    shifted[..., :2, 2] -= 0.5 * K[..., 2, 2, None]
    return shifted
