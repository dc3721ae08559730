# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which of some reference images show the same place: they see the same points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.map import Map

Index = npt.NDArray[np.int64]


def covisibility_clusters(model: Map, views: Index, min_shared_points: int) -> list[Index]:
    """The views (k,) parted into clusters, each in the order given.

    Two views are neighbours when they share at least `min_shared_points` points; a cluster is what
    neighbours of neighbours reach (Sattler et al. 2017; Sarlin et al. 2019). Points belong to one
    scene, and so does a cluster. Clusters with more views come first, then those with earlier ones.
    """
    label = np.arange(len(views))
    first, second = _neighbours(model, views, min_shared_points)
    while (label[first] != label[second]).any():  # every view takes the least label it can reach
        least = label.copy()
        np.minimum.at(least, label[first], label[second])
        np.minimum.at(least, label[second], label[first])
        label = least[least[label]]
    groups = [views[label == one] for one in np.unique(label)]
    return sorted(groups, key=len, reverse=True)  # stable: equal ones in order of the first view


def _neighbours(model: Map, views: Index, least: int) -> tuple[Index, Index]:
    """Pairs of positions in `views` that share points."""
    none = np.zeros(0, np.int64)
    seen = [model.obs_point[model.observations_of(int(view))] for view in views]
    if len(seen) < 2:
        return none, none
    point = np.concatenate(seen)
    member = np.repeat(np.arange(len(views)), [len(each) for each in seen])
    order = np.argsort(point, kind="stable")  # runs that are sorted already: cheap
    point, member = point[order], member[order]
    keys: list[Index] = []
    step = 1
    while step < len(point):
        same = point[step:] == point[:-step]
        if not same.any():
            break
        keys.append(member[:-step][same] * len(views) + member[step:][same])
        step += 1
    if not keys:
        return none, none
    pair, shared = np.unique(np.concatenate(keys), return_counts=True)
    return np.divmod(pair[shared >= least], len(views))
