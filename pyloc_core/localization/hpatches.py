# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Mean matching accuracy on folders laid out like HPatches.

A folder holds sequences `i_*` (illumination) and `v_*` (viewpoint); a sequence holds pictures `1.ppm` to
`6.ppm` (or .png, .jpg) and files `H_1_2` to `H_1_6` with the homography from the first picture to each
other one. Balntas et al., "HPatches", CVPR 2017; the measure as in Dusmanu et al., "D2-Net", CVPR 2019.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.images import read_image, to_gray
from pyloc_core.match_filters import cyclic_check, filter_matches
from pyloc_core.ops.match import match

Array = npt.NDArray[np.float64]
THRESHOLDS = tuple(range(1, 11))  # pixels
_SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")
_POINTS = 1000


class PointMatches(NamedTuple):
    """Where N points of one image were found in another: xy (N, 2) pixels, valid (N,) bool."""

    xy: Array
    valid: npt.NDArray[np.bool_]


# (first image, points (N, 2), second image) -> matches.
Matcher = Callable[[npt.NDArray[np.uint8], Array, npt.NDArray[np.uint8]], PointMatches]
Keypoints = Callable[[npt.NDArray[np.uint8]], Array]


@dataclass(frozen=True, eq=False)
class PlaneSequence:
    """Pictures of one plane: the first, and the others with their homographies (3, 3).

    A homography maps pixel indices, whose origin is the centre of the first pixel, as in the files.
    """

    name: str
    first: Path
    others: tuple[tuple[Path, Array], ...]

    @property
    def kind(self) -> str:
        return "illumination" if self.name.startswith("i_") else "viewpoint"


def read_sequences(folder: str | Path) -> list[PlaneSequence]:
    """All sequences of a folder, in alphabetical order. ValueError names what is missing or damaged."""
    root = Path(folder)
    names = sorted(p for p in root.glob("[iv]_*") if p.is_dir())
    if not names:
        raise ValueError(f"{root} holds no sequence i_* or v_*")
    sequences = []
    for path in names:
        others = [
            (_picture(path, file.name[len("H_1_") :]), _homography(file))
            for file in sorted(path.glob("H_1_*"))
        ]
        if not others:
            raise ValueError(f"{path} holds no homography H_1_*")
        sequences.append(PlaneSequence(path.name, _picture(path, "1"), tuple(others)))
    return sequences


def warp(homography: Array, xy: Any) -> Array:
    """Points (N, 2) of the first picture in another one; both in pixels, first centre at (0.5, 0.5).

    Points on the horizon of the homography become infinite.
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2) - 0.5
    h = np.column_stack([points, np.ones(len(points))]) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(h[:, :2] / h[:, 2:]) + 0.5


def corners(image: npt.NDArray[np.uint8], count: int = _POINTS) -> Array:
    """(N, 2) at most `count` corners of an image, pixels, best first (Shi and Tomasi 1994)."""
    cv2 = require("cv2", "corners")
    found = cv2.goodFeaturesToTrack(to_gray(image).astype(np.uint8), count, 0.01, 4)
    if found is None:
        return np.zeros((0, 2))
    return np.asarray(found.reshape(-1, 2), np.float64) + 0.5


def descriptor_matcher(
    descriptor: Any,
    *,
    level: int = -1,
    min_probability: float = 0.0,
    max_cyclic: float | None = 1.0,
    num_threads: int | None = None,
) -> Matcher:
    """A matcher of one level of any `Descriptor`: best cell to a fraction of it, and the way back.

    Args:
        descriptor: see `Descriptor`.
        level: of its `dense`; the last is the finest.
        min_probability: matches of at most this probability are not valid.
        max_cyclic: nor are those whose way back ends this many cells from the point, or farther;
            None skips the way back.
        num_threads: see `match`.
    """
    temperature = 1 / float(descriptor.beta[level])

    def matcher(
        first: npt.NDArray[np.uint8], xy: Array, second: npt.NDArray[np.uint8]
    ) -> PointMatches:
        if not len(xy):
            return PointMatches(np.zeros((0, 2)), np.zeros(0, bool))
        there = descriptor.dense(second)[level]
        described = np.ascontiguousarray(descriptor.describe(first, xy, (1.0,))[level][:, 0])
        found = match(
            described, there.values, temperature=temperature, subcell="quadratic",
            num_threads=num_threads,
        )  # fmt: skip
        at = there.pixels(found.xy)
        valid = np.asarray(filter_matches(found, min_probability=min_probability))
        if max_cyclic is not None:
            here = descriptor.dense(first)[level]
            again = np.ascontiguousarray(descriptor.describe(second, at, (1.0,))[level][:, 0])
            back = cyclic_check(
                here.cells(xy), again, here.values, max_distance=max_cyclic, num_threads=num_threads
            )
            valid = valid & np.asarray(back.valid)
        return PointMatches(at, valid)

    return matcher


def mean_matching_accuracy(
    folder: str | Path,
    matcher: Matcher,
    *,
    keypoints: Keypoints = corners,
    thresholds: Sequence[float] = THRESHOLDS,
    progress: bool = False,
) -> dict[str, Any]:
    """Share of matches that are right, averaged over the pairs of pictures.

    Args:
        folder: see the module.
        matcher: finds points of the first picture in another one.
        keypoints: gives the points of a first picture.
        thresholds: pixels; a match is right when it is at most this far from where the homography
            puts the point. A pair without matches counts as 0.
        progress: show a bar.

    Returns:
        {"thresholds": [...], "mma": {"all": [...], "illumination": [...], "viewpoint": [...]},
        "pairs": {kind: count}, "matches_per_pair": mean, "rows": per pair}. A kind that the folder
        lacks is left out. Plain numbers, ready for JSON.

    The measure does not count how many points were matched: look at `matches_per_pair` too.
    """
    limits = np.asarray(thresholds, np.float64)
    if limits.ndim != 1 or not len(limits) or not (np.isfinite(limits) & (limits > 0)).all():
        raise ValueError(f"thresholds must be positive and finite, got {thresholds!r}")
    rows: list[dict[str, Any]] = []
    for sequence in _progress(read_sequences(folder), progress):
        first = read_image(sequence.first)
        points = np.asarray(keypoints(first), np.float64).reshape(-1, 2)
        for path, homography in sequence.others:
            found = matcher(first, points, read_image(path))
            truth = warp(homography, points)[found.valid]
            distance = np.linalg.norm(np.asarray(found.xy)[found.valid] - truth, axis=1)
            right = (distance[:, None] <= limits).mean(0) if len(distance) else 0 * limits
            rows.append(
                {
                    "sequence": sequence.name, "image": path.name, "kind": sequence.kind,
                    "points": len(points), "matches": len(distance), "accuracy": right.tolist(),
                }
            )  # fmt: skip
    return _summary(rows, limits)


def _summary(rows: list[dict[str, Any]], limits: Array) -> dict[str, Any]:
    parts = {"all": rows}
    for kind in ("illumination", "viewpoint"):
        some = [row for row in rows if row["kind"] == kind]
        parts |= {kind: some} if some else {}
    return {
        "thresholds": limits.tolist(),
        "mma": {
            k: np.mean([r["accuracy"] for r in part], axis=0).tolist() for k, part in parts.items()
        },
        "pairs": {kind: len(part) for kind, part in parts.items()},
        "matches_per_pair": float(np.mean([row["matches"] for row in rows])),
        "rows": rows,
    }


def write_json(result: dict[str, Any], path: str | Path) -> None:
    """A result of `mean_matching_accuracy` as a file."""
    Path(path).write_text(json.dumps(result, indent=1) + "\n")


def plot(results: dict[str, dict[str, Any]], path: str | Path) -> Path:
    """Accuracy over threshold, one panel per kind and one line per method, as a picture file.

    `results` maps the name of a method to its result.
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    kinds = [k for k in ("all", "illumination", "viewpoint")
             if any(k in result["mma"] for result in results.values())]  # fmt: skip
    figure = Figure(figsize=(3.4 * len(kinds) + 0.6, 3.4), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, kinds):
        for name, result in results.items():
            if kind in result["mma"]:
                axis.plot(result["thresholds"], result["mma"][kind], marker=".", label=name)
        axis.set_title(kind)
        axis.set_xlabel("threshold (pixels)")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean matching accuracy")
    axes[0].legend(loc="lower right")
    out = Path(path)
    figure.savefig(out)
    return out


def _picture(folder: Path, number: str) -> Path:
    for suffix in _SUFFIXES:
        path = folder / f"{number}{suffix}"
        if path.is_file():
            return path
    raise ValueError(f"{folder} holds no picture {number}{_SUFFIXES[0]}")


def _homography(path: Path) -> Array:
    try:
        matrix = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise ValueError(f"{path} is no homography: 3 x 3 finite numbers, not singular")
    return np.asarray(matrix, np.float64)


def _progress(items: list[PlaneSequence], show: bool) -> Iterable[PlaneSequence]:
    if not show:
        return items
    tqdm = require("tqdm", "a progress bar").tqdm
    return tqdm(items, desc="Matching", unit="sequence")  # type: ignore[no-any-return]
