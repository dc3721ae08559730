# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Global descriptors of images: by an object of the user's, or as a VLAD of the dense descriptor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core.localization import vlad
from pyloc_core.localization.features import Features, Float32
from pyloc_core.localization.identity import plain
from pyloc_core.localization.images import to_luma

# Images the vocabulary is learned from, spread over the map.
_VOCABULARY_IMAGES = 40


@dataclass(frozen=True)
class WholeImages:
    """Describes reference images and photos alike.

    Attributes:
        descriptor: of the map; its coarse level is what the VLAD is made of.
        network: a `GlobalDescriptor`, or None for the VLAD.
        vocabulary: (words, D); (0, D) for none.
    """

    descriptor: Any
    network: Any
    vocabulary: Float32

    def describe(self, image: npt.NDArray[Any], coarse: Features | None = None) -> Float32:
        """(D,) unit vector; zeros for an image that shows nothing, () when there is none to make.

        `coarse` is the image's coarse level where it is known already.
        """
        if self.network is not None:
            return described_by(self.network, image)
        if not len(self.vocabulary):
            return np.zeros(0, np.float32)
        level = coarse_level(self.descriptor, image) if coarse is None else coarse
        return vlad.global_descriptor(level, self.vocabulary)

    @property
    def exist(self) -> bool:
        return self.network is not None or len(self.vocabulary) > 0


def described_by(network: Any, image: npt.NDArray[Any]) -> Float32:
    """(D,) unit descriptor of an image by a `GlobalDescriptor`; zeros stay zeros. An object that says
    `in_colour = False` is given luma, of photos as of reference images.

    Raises ValueError when the object gives something that is no vector of finite numbers.
    """
    colour = getattr(network, "in_colour", True)
    vector = network.global_descriptor(image if colour else to_luma(image))
    if _arrays.is_torch(vector):
        vector = vector.detach().cpu()
    name = f"the global descriptor of {type(network).__name__}"
    values = _arrays.as_array(vector, name, shape=("D",), dtype="float32").data
    length = float(np.linalg.norm(values.astype(np.float64)))
    return np.asarray(values / max(length, 1e-12), np.float32)


def network_for(given: Any, built_with: Mapping[str, Any] | None) -> Any:
    """The object that describes photos for a map: the given one, checked against the map's; None for
    a map with a vocabulary of its own. ValueError when they differ."""
    if built_with is None:
        if given is not None:
            raise ValueError(
                "the map was built without a global descriptor: build it again with "
                f"global_descriptor={type(given).__name__}(...)"
            )
        return None
    if given is None:
        raise ValueError(
            f"the map was built with the global descriptor {built_with.get('name')!r}: pass it as "
            "`global_descriptor`"
        )
    if plain(given.to_dict()) != plain(built_with):
        raise ValueError(
            f"the map's global descriptor is {dict(built_with)}, not {given.to_dict()}"
        )
    return given


def learned_vocabulary(
    image_of: Callable[[int], npt.NDArray[Any]], count: int, descriptor: Any, words: int
) -> Float32:
    """(words, D) learned from some of `count` images; (0, 1) when there is nothing to learn."""
    if words == 0 or count == 0:
        return np.zeros((0, 1), np.float32)
    some = np.unique(np.linspace(0, count - 1, min(count, _VOCABULARY_IMAGES)).astype(int))
    samples = [vlad.sample_cells(coarse_level(descriptor, image_of(int(v))), int(v)) for v in some]
    return vlad.learn_vocabulary(samples, words)


def coarse_level(descriptor: Any, image: npt.NDArray[Any]) -> Features:
    """The first level; a descriptor may offer it alone, which saves the fine one."""
    if hasattr(descriptor, "dense_coarse"):
        return descriptor.dense_coarse(image)
    return descriptor.dense(image)[0]
