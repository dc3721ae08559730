# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSAnywhere from images to depth, one pass, 240 x 320, 7 sources, 1 thread: with the operators' volumes and
with the same volumes in plain torch; the seconds of every part are in extra_info.

Run as a script it prints them for another size: `python benchmarks/bench_mvsanywhere.py 480 640`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import MethodType

import pytest

from pyloc_core import models

torch = pytest.importorskip("torch")
HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests")]
import bench_metadata_cost_volume as plain  # noqa: E402
from mvsanywhere_scene import Scene  # noqa: E402
from sweep_scenes import grid_sample_sweep  # noqa: E402

VIEWS, SIZE = 7, (240, 320)
VARIANTS = ("mvsanywhere_dot", "mvsanywhere_hero")


def eager_dot(network, of_reference, of_sources, cameras, near, far):
    """A call of grid_sample for every plane of every view, what is fastest in plain torch on a CPU."""
    geometry = (*cameras.of_maps, cameras.source_from_reference)
    return grid_sample_sweep(
        of_reference, of_sources, *(each.float() for each in geometry), network.planes(near, far),
        per_plane=True,
    )  # fmt: skip


def eager_hero(network, of_reference, of_sources, cameras, near, far):
    """The loop over views and planes."""
    geometry = (*cameras.of_maps, cameras.source_from_reference)
    planes, weights = network.planes(near, far), network.cost_volume["mlp"].weights
    given = zip(of_reference, of_sources, *geometry, planes)
    return torch.stack([plain.eager(*each, weights) for each in given])


EAGER = dict(zip(VARIANTS, (eager_dot, eager_hero)))


class Timed:
    """A network whose parts say how long they took in the last call."""

    def __init__(self, name, form):
        torch.set_num_threads(1)
        self.network, self.seconds = models.create(name, seed=0), {}
        if form == "eager":
            self.network.volume = MethodType(EAGER[name], self.network)
        for part in ("matching_features", "mono_features", "volume"):
            setattr(self.network, part, self.watched(part, getattr(self.network, part)))
        for part in ("cost_volume_net", "depth_decoder"):
            module = getattr(self.network, part)
            module.forward = self.watched(part, module.forward)

    def watched(self, part, call):
        def run(*given, **options):
            start = time.perf_counter()
            found = call(*given, **options)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
            return found

        return run

    def __call__(self, scene):
        self.seconds.clear()
        with torch.inference_mode():
            return self.network(*scene, refinements=0, return_volume=True)


def at_size(size):
    """The plain form has the sizes of its maps in its module."""
    return {"HEIGHT": size[0] // 4, "WIDTH": size[1] // 4, "VIEWS": VIEWS}


@pytest.mark.parametrize("form", ["pyloc", "eager"])
@pytest.mark.parametrize("name", VARIANTS)
def test_network(benchmark, monkeypatch, name, form):
    for constant, value in at_size(SIZE).items():
        monkeypatch.setattr(plain, constant, value)
    network, scene = Timed(name, form), Scene.drawn(1, views=VIEWS, size=SIZE)
    benchmark.group = f"{name}, {SIZE[0]} x {SIZE[1]}, {VIEWS} sources, one pass, 1 thread"
    found = benchmark.pedantic(network, (scene,), rounds=3, warmup_rounds=1)
    benchmark.extra_info |= {part: round(s, 3) for part, s in network.seconds.items()}
    if form == "pyloc":
        truth = Timed(name, "eager")(scene)
        assert (found.volume - truth.volume).abs().max() < 2e-3 * truth.volume.abs().max()
        assert (found.depth / truth.depth).log().abs().max() < 2e-3


def main(height, width, rounds=3):
    """Both forms in turn, so that what else the machine does falls on both; the fastest call of each."""
    vars(plain).update(at_size((height, width)))
    scene = Scene.drawn(1, views=VIEWS, size=(height, width))
    for name in VARIANTS:
        forms = {form: Timed(name, form) for form in ("pyloc", "eager")}
        best = {}
        for _ in range(rounds):
            for form, network in forms.items():
                start = time.perf_counter()
                network(scene)
                total = time.perf_counter() - start
                if form not in best or total < best[form][0]:
                    best[form] = total, dict(network.seconds)
        for form, (total, seconds) in best.items():
            parts = ", ".join(f"{part} {s:.3f}" for part, s in seconds.items())
            share = 100 * seconds["volume"] / total
            print(f"{name} {form}: {total:.2f} s; {parts}; volume {share:.1f} %", flush=True)
        totals, volumes = zip(*((t, s["volume"]) for t, s in best.values()))
        print(f"  network {totals[1] / totals[0]:.2f} x, volume {volumes[1] / volumes[0]:.0f} x")


if __name__ == "__main__":
    main(*(int(side) for side in sys.argv[1:3]))
