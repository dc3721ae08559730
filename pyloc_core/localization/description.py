# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Describing a list of photos as a whole, for an engine: a network per worker, a vector per photo."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.images import read_image
from pyloc_core.localization.work_list import Answer, Query

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DescribeJob:
    """Global descriptors of photos by a published network.

    Attributes:
        model: one of `models.available()` that makes global descriptors.
        weights: its file, there for every worker; None for random ones, which serve tests alone.
        options: of the network.
        seed: of the random weights.
        half: half precision, where the network offers it.
        device: where the network runs, "cpu" or "cuda".
        batch_size: photos that go through the network at once.
    """

    model: str
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    half: bool = False
    device: str = "cpu"
    batch_size: int = 16

    def check(self) -> None:
        """ValueError for a model that does not exist or makes no such descriptors, or no weights."""
        from pyloc_core.models import model_class

        if not hasattr(model_class(self.model), "global_descriptor"):
            raise ValueError(f"the network {self.model} makes no global descriptors")
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"no such file: {self.weights}")

    def identity(self) -> dict[str, Any]:
        """What decides the descriptors, beside the weights' content, as plain values."""
        return {
            "model": self.model, "options": dict(self.options), "half": self.half,
            "seed": self.seed if self.weights is None else None, "device": self.device.split(":")[0],
        }  # fmt: skip

    def network(self) -> Any:
        """The network with its weights. ValueError for options or weights that do not fit."""
        from pyloc_core import models

        try:
            network = models.create(self.model, seed=self.seed, **self.options)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if self.weights is not None:
            network.load_official(self.weights)
        return network.to(self.device)

    def start(self, num_threads: int | None) -> Callable[[Sequence[Query]], list[Answer]]:
        """Load the network; the function that describes photos. `num_threads` holds for all of torch."""
        network = self.network()
        if num_threads is not None:
            require("torch", "networks").set_num_threads(num_threads)

        def describe(images: list[Pixels]) -> npt.NDArray[np.float32]:
            if hasattr(network, "global_descriptors"):
                many = network.global_descriptors(images, batch_size=len(images), half=self.half)
            else:
                many = [network.global_descriptor(image) for image in images]
            return np.asarray(many, np.float32)

        return lambda queries: self._answers(queries, describe)

    def _answers(
        self,
        queries: Sequence[Query],
        describe: Callable[[list[Pixels]], npt.NDArray[np.float32]],
    ) -> list[Answer]:
        start = time.perf_counter()
        images: dict[int, Pixels] = {}
        errors: dict[int, str] = {}
        for position, query in enumerate(queries):
            try:
                images[position] = read_image(query.path)
            except ValueError as error:
                errors[position] = str(error)
        vectors = _described(images, errors, describe)
        share = (time.perf_counter() - start) / max(1, len(queries))
        return [
            self.failed(query, errors[position])
            if position in errors
            else self._answer(query, images[position], vectors[position], share)
            for position, query in enumerate(queries)
        ]

    def _answer(self, query: Query, image: Pixels, vector: Any, seconds: float) -> Answer:
        height, width = image.shape[:2]
        record = {
            "query": query.index, "image": query.image, "success": True, "error": None,
            "width": width, "height": height, "seconds": seconds,
        }  # fmt: skip
        return Answer(query.index, record, vector)

    def failed(self, query: Query, error: str) -> Answer:
        """The answer of a photo that could not be described."""
        record = {"query": query.index, "image": query.image, "success": False, "error": error}
        return Answer(query.index, record | {"width": None, "height": None, "seconds": 0.0})


def _described(
    images: dict[int, Pixels],
    errors: dict[int, str],
    describe: Callable[[list[Pixels]], npt.NDArray[np.float32]],
) -> dict[int, npt.NDArray[np.float32]]:
    """Position -> descriptor. A batch that fails goes through one by one; `errors` gets the culprits."""
    try:
        return dict(zip(images, describe(list(images.values())))) if images else {}
    except ImportError:
        raise
    except Exception as error:
        if len(images) == 1:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            errors[next(iter(images))] = f"{kind}{error}".removeprefix("images[0]: ")
            return {}
    single = [_described({at: image}, errors, describe) for at, image in images.items()]
    return {at: vector for found in single for at, vector in found.items()}


def network_of_map(built_with: Mapping[str, Any] | None, weights: str | None, device: str) -> Any:
    """The network that a map's images were described by, with its weights; None for a map that needs
    none.

    Args:
        built_with: `Map.global_descriptor`.
        weights: file of the network; None for a map that was built with random ones.

    Raises ValueError for a map that needs no network but weights are given, and for weights that do not
    fit the network; whether they are the map's is checked by `Localizer`.
    """
    if built_with is None:
        if weights is not None:
            raise ValueError("--weights: the map was built without a network")
        return None
    from pyloc_core import models

    config = {name: value for name, value in built_with.items() if name not in ("name", "weights")}
    name = str(built_with.get("name"))
    if name not in models.available():
        raise ValueError(
            f"the map was built with the global descriptor {name!r}, which is none of the package's "
            "networks: localize from Python"
        )
    return DescribeJob(name, weights, config, device=device).network()
