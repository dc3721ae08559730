# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSAnywhere: depth of a posed image from posed images around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core import _checks
from pyloc_core.depth_planes import log_depth_planes, refine_depth_range
from pyloc_core.models.checkpoint import Checkpoint, State
from pyloc_core.models.dinov2 import DINOv2, ViTSize
from pyloc_core.models.mvsanywhere.cameras import (
    Cameras,
    can_look,
    check_images,
    checked_cameras,
    first_range,
    padded,
    size_of,
)
from pyloc_core.models.mvsanywhere.combiner import CueCombiner, Tokens, mono_taps
from pyloc_core.models.mvsanywhere.decoder import NUM_SCALES, DepthDecoder
from pyloc_core.models.mvsanywhere.initial import calm
from pyloc_core.models.mvsanywhere.loading import depth_anything_parts, weights_alone
from pyloc_core.models.mvsanywhere.matching import MatchingEncoder
from pyloc_core.models.mvsanywhere.prediction import DepthPrediction
from pyloc_core.models.network import Licence, Network, initialise

_MONO_SCALE = 0.875  # 14 pixels of the transformer's patches for 16 of the image


class MVSAnywhere(Network):
    """Base of the two variants, which differ in the volume: `MVSAnywhereDot`, `MVSAnywhereHero`.

    Args:
        backbone: "vitb14" (published), "vits14", "vitl14", or (channels, depth, heads) with a depth that
            is a multiple of 4; of both transformers.
        width: of patchifier and decoder, a multiple of 4 (published: 128).
        matching_channels, matching_width: of the matching encoder (published: 16 and 64).
        num_depths: planes of the volume (published: 64).
        seed: of the random weights.

    Source: Izquierdo et al., "MVSAnywhere: Zero-shot multi-view stereo", CVPR 2025.
    """

    licence = Licence(
        code="Niantic's own licence: non-commercial use only, not sublicensable",
        weights="released with the code; taken to be on the same terms. They start from DINOv2 and Depth "
        "Anything V2 ViT-B (Apache-2.0) and an antialiased ResNet-18 (CC BY-NC-SA 4.0)",
        note="not shipped here; no use in commercial models or products. This implementation is an "
        "independent one; a patent is pending on the method",
    )

    def __init__(
        self,
        *,
        backbone: str | Sequence[int] = "vitb14",
        width: int = 128,
        matching_channels: int = 16,
        matching_width: int = 64,
        num_depths: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        size = _backbone_size(backbone)
        self.num_depths = _checks.integer("num_depths", num_depths, 2)
        width = _checks.integer("width", width, 4)
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        channels = _checks.integer("matching_channels", matching_channels, 1)
        matching_width = _checks.integer("matching_width", matching_width, 1)
        vit = DINOv2(size, seed=seed)
        vit.mask_token.requires_grad_(False)  # in the published files, and not used
        self.encoder = nn.ModuleDict({"model": vit})  # the published names
        self.matching_model = MatchingEncoder(channels, matching_width)
        self.cost_volume = self._volume_parts(channels)
        self.cost_volume_net = CueCombiner(self.num_depths, size, width, seed + 2)
        self.depth_decoder = DepthDecoder(vit.channels, width)
        self.mono_taps = mono_taps(vit.size.depth)
        self._config = {
            "backbone": backbone if isinstance(backbone, str) else [int(n) for n in backbone],
            "width": width, "matching_channels": channels, "matching_width": matching_width,
            "num_depths": self.num_depths,
        }  # fmt: skip
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        parts = (self.matching_model, self.cost_volume, self.cost_volume_net.cv_feat_fusers,
                 self.cost_volume_net.patch_embed, self.depth_decoder)  # fmt: skip
        for index, part in enumerate(parts):
            initialise(part, seed + 5 + index)
        calm(self.cost_volume_net.patch_embed, seed + 4)
        calm(self.depth_decoder, seed + 3)

    def _volume_parts(self, channels: int) -> nn.ModuleDict:
        return nn.ModuleDict()

    def config(self) -> dict[str, Any]:
        return dict(self._config)

    def fitted(self, checkpoint: Checkpoint) -> State:
        """As of every network, for both published containers; what is no weight is left out. ValueError
        that says so for a checkpoint of the other variant."""
        return super().fitted(weights_alone(checkpoint, self.model_name))

    def load_start(self, *, depth_anything: Any = None, dinov2: Any = None) -> None:
        """Load what published training starts from; everything else keeps its weights.

        Args:
            depth_anything: Depth Anything V2 (`depth_anything_v2_vitb.pth`) or a state dict: encoder of the
                reference image, and decoder without its heads.
            dinov2: DINOv2 (`dinov2_vitb14_pretrain.pth`) or a state dict: transformer of the combiner.

        Raises ValueError for what does not fit; that part keeps its weights then.
        """
        if depth_anything is not None:
            encoder, decoder = depth_anything_parts(depth_anything, self.depth_decoder)
            self.vit.load_pretrained(encoder)
            self.depth_decoder.load_state_dict(decoder)
        if dinov2 is not None:
            self.cost_volume_net.model.load_pretrained(dinov2)

    @property
    def vit(self) -> DINOv2:
        """The encoder of the reference image."""
        vit = self.encoder["model"]
        assert isinstance(vit, DINOv2)
        return vit

    # Parts, in the order of the computation

    def matching_features(self, images: Tensor) -> Tensor:
        """(N, C, h, w) of preprocessed images (N, 3, H, W): a quarter of the sides, padded to multiples
        of 16. An image's features do not depend on the others: keep them for the next reference."""
        images = self._as_weights(padded(images))
        if self.training or images.device.type != "cpu" or len(images) < 2:
            return self.matching_model(images)
        # One by one the layers' values stay in the cache; and the result has the same bits in any batch.
        return torch.cat([self.matching_model(each) for each in images.split(1)])

    def mono_features(self, images: Tensor) -> list[Tokens]:
        """Patches (N, C, H / 16, W / 16) and class token of the blocks `mono_taps`."""
        images = self._as_weights(padded(images))
        small = F.interpolate(
            images, scale_factor=_MONO_SCALE, mode="bilinear", align_corners=False
        )
        return self.vit.intermediate(small, self.mono_taps)

    def _as_weights(self, images: Tensor) -> Tensor:
        """In the dtype of the weights, which `half()` and `double()` change; photos are float32."""
        return images.to(self.vit.cls_token.dtype)

    def planes(self, near: Tensor, far: Tensor) -> Tensor:
        """(B, D) depths from near to far (B,), evenly spaced in the logarithm."""
        low, high = near.double(), far.double()
        # Of the ratio alone: a scene twice as large has exactly twice these depths.
        return (low[:, None] * log_depth_planes(low / low, high / low, self.num_depths)).to(
            near.dtype
        )

    def volume(
        self, of_reference: Tensor, of_sources: Tensor, cameras: Cameras, near: Tensor, far: Tensor
    ) -> Tensor:
        """(B, D, h, w) of matching features (B, C, h, w) and (B, V, C, hs, ws)."""
        raise NotImplementedError

    def forward(
        self,
        reference: Tensor,
        sources: Tensor,
        K_reference: Any,
        K_sources: Any,
        source_from_reference: Any,
        *,
        num_valid: Any = None,
        depth_range: tuple[Any, Any] | None = None,
        refinements: int | None = None,
        scales: int | None = None,
        return_volume: bool = False,
        check_finite: bool | None = None,
    ) -> DepthPrediction:
        """Depth of reference images from V sources each.

        Args:
            reference: (B, 3, H, W) preprocessed, at least 32 x 32. Sides that are no multiples of 16 are
                continued right and below by their last column and row; the result is cropped.
            sources: (B, V, 3, Hs, Ws), V of 1 and more.
            K_reference, K_sources: (B, 3, 3), (B, V, 3, 3) intrinsics in image pixels (COLMAP's), or (3, 3).
            source_from_reference: (B, V, 3, 4) or (B, V, 4, 4): camera coordinates of the reference to those of
                the sources, x right, y down.
            num_valid: only the first so many sources count, an int or (B,).
            depth_range: (near, far), numbers or (B,); None: what the cameras can triangulate
                (`pyloc_core.depth_range`), which takes the focal length of source 0.
            refinements: passes after the first, each in the range that the last one found; the encoders
                run once. None: 1, and 0 in training mode.
            scales: of `log_depths` and `sky_logits`, 1 to 4. None: 1, and 4 in training mode.
            return_volume: keep the volume of the last pass.
            check_finite: look for NaN in what is given, which waits for a GPU. None: on the CPU only.

        Raises:
            ValueError: what has another shape, is too small, holds NaN; zero baselines without `depth_range`;
                near and far that are not 0 < near < far.
        """
        look = check_finite
        if look is None:
            look = isinstance(reference, Tensor) and can_look(reference)
        check_images(reference, sources, look=look)
        cameras = checked_cameras(
            (K_reference, K_sources, source_from_reference),
            (size_of(reference), size_of(sources)),
            (sources.shape[0], sources.shape[1]),
            num_valid,
            device=reference.device,
            look=look,
        )
        b, v = sources.shape[:2]
        every = self.matching_features(sources.flatten(0, 1)).unflatten(0, (b, v))
        return self.predict_from_features(
            self.matching_features(reference), every, self.mono_features(reference), cameras,
            depth_range=depth_range, refinements=refinements, scales=scales,
            return_volume=return_volume,
        )  # fmt: skip

    def predict(
        self,
        reference: Any,
        sources: Sequence[Any],
        K_reference: Any,
        K_sources: Any,
        source_from_reference: Any,
        *,
        half: bool = False,
        **options: Any,
    ) -> DepthPrediction:
        """`forward` for one reference image (H, W, 3) RGB or (H, W), uint8, and a list of V sources of one
        size, in evaluation mode without gradients.

        Args:
            K_reference, K_sources, source_from_reference: (3, 3), (V, 3, 3), (V, 3, 4) or (V, 4, 4).
            half: float16 on a GPU, bfloat16 on the CPU, where autocast holds it to be enough.
            options: those of `forward`.

        The prediction has B = 1; `depth_map()` is the array.
        """
        if len(sources) == 0:
            raise ValueError("sources must hold at least one view")
        pixels = [self.preprocess(image) for image in sources]
        if len({each.shape for each in pixels}) > 1:
            shapes = sorted({size_of(each) for each in pixels})
            raise ValueError(f"sources must be of one size, got {shapes}")
        matrices = (K_reference, K_sources, source_from_reference)
        with self.evaluating(half=half):
            return self(self.preprocess(reference), torch.stack(pixels, 1), *matrices, **options)

    def predict_from_features(
        self,
        of_reference: Tensor,
        of_sources: Tensor,
        mono: Sequence[Tokens],
        cameras: Cameras,
        *,
        depth_range: tuple[Any, Any] | None = None,
        refinements: int | None = None,
        scales: int | None = None,
        return_volume: bool = False,
    ) -> DepthPrediction:
        """As `forward`, for what the encoders gave: matching features (B, C, h, w) and (B, V, C, hs, ws),
        tokens of the reference. Volume, combiner and decoder run once a pass."""
        if refinements is None:
            refinements = 0 if self.training else 1
        if scales is None:
            scales = NUM_SCALES if self.training else 1
        refinements = _checks.integer("refinements", refinements, 0)
        if _checks.integer("scales", scales, 1) > NUM_SCALES:
            raise ValueError(f"scales must be 1 to {NUM_SCALES}, got {scales}")
        wide = torch.float64 if of_reference.dtype == torch.float64 else torch.float32
        limits = first_range(cameras, depth_range)
        first = [each.to(of_reference.device, wide) for each in limits]
        near, far = first
        for _ in range(refinements):
            with torch.no_grad():
                volume = self.volume(of_reference, of_sources, cameras, near, far)
                tokens = self.cost_volume_net(volume, mono)
                logits, _ = self.depth_decoder(tokens, 1, sky=False)
                depth = near[:, None, None] * _log_ratio(logits[0], cameras, near, far).exp()
                near, far = refine_depth_range(depth, near, far)
        volume = self.volume(of_reference, of_sources, cameras, near, far)
        tokens = self.cost_volume_net(volume, mono)
        logits, sky = self.depth_decoder(tokens, scales)
        log_depths = tuple(_log_depth(each, near, far) for each in logits)
        ratio = _log_ratio(logits[0], cameras, near, far)
        return DepthPrediction(
            depth=near[:, None, None] * ratio.exp(),
            log_depth=_cropped(log_depths[0], cameras),
            sky_probability=_cropped(_wide(sky[0]), cameras).sigmoid(),
            near=near, far=far, first_near=first[0], first_far=first[1],
            planes=self.planes(near, far), mask=cameras.overall_mask(far),
            volume=volume if return_volume else None,
            log_depths=log_depths, sky_logits=tuple(_wide(each) for each in sky),
        )  # fmt: skip


def _log_depth(logits: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """(B, 1, H, W): ln near + ln(far / near) sigmoid(x) (Eq. 9.2)."""
    low, span = near.log(), (far / near).log()
    return low.view(-1, 1, 1, 1) + span.view(-1, 1, 1, 1) * _wide(logits).sigmoid()


def _log_ratio(logits: Tensor, cameras: Cameras, near: Tensor, far: Tensor) -> Tensor:
    """(B, H, W): logarithm of depth / near, the part of Eq. 9.2 that the unit of length is not in."""
    return (far / near).log()[:, None, None] * _cropped(_wide(logits), cameras).sigmoid()


def _cropped(values: Tensor, cameras: Cameras) -> Tensor:
    """(B, H, W) of (B, 1, H + padding, W + padding)."""
    height, width = cameras.size
    return values[:, 0, :height, :width]


def _wide(values: Tensor) -> Tensor:
    """In float32 where they are narrower."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _backbone_size(backbone: Any) -> str | ViTSize:
    if isinstance(backbone, str):
        return backbone
    if not isinstance(backbone, Sequence) or len(backbone) != 3:
        raise TypeError(f"backbone must be a name or (channels, depth, heads), got {backbone!r}")
    channels, depth, heads = (_checks.integer("backbone", each, 1) for each in backbone)
    if depth % 4:
        raise ValueError(f"the depth of backbone must be a multiple of 4, got {depth}")
    return ViTSize(channels, depth, heads)
