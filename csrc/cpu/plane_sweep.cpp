// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/plane_sweep.h"

#include "cpu/plane_sweep_backward.h"
#include "cpu/sweep_tiles.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

inline void fill(float* p, std::int64_t count, float value) {
  for (std::int64_t i = 0; i < count; ++i) p[i] = value;
}

// A row of the reference at a time, a tile of it over all views before the next: the tile's part of the
// volume stays in the first-level cache, and its lines in the sources in the second.
template <int N>
class Forward : public SweepTiles {
 public:
  explicit Forward(const SweepProblem& p) : SweepTiles(p) {}

  // The row's cells, room to pack them, inverse depths, sums and numbers of views.
  std::int64_t slot_floats() const {
    const SweepProblem& p = problem_;
    return map_.stride * 2 * round_up(p.width, 16) + 3 * tile_floats(p.planes);
  }

  void row(std::int64_t item, std::int64_t y, const float* maps, float* memory, void* volume) const {
    const SweepProblem& p = problem_;
    float* room = memory + map_.stride * round_up(p.width, 16);
    float* inverse = room + map_.stride * round_up(p.width, 16);
    float *sums = inverse + tile_floats(p.planes), *counts = sums + tile_floats(p.planes);
    const PlanarMap reference{p.reference, p.dtype, item * p.channels * area_, p.channels, p.height, p.width};
    pack_cells(reference, y, room, memory);
    each_tile([&](std::int64_t x, int cells) {
      const std::int64_t step = inverse_depths(item, y, x, cells, inverse), used = views(item);
      const float* features = memory + x * map_.stride;
      fill(sums, cells * ld_, 0.0f);
      fill(counts, cells * ld_, p.reduce == kSweepValidMean ? 0.0f : float(used));
      for (std::int64_t v = 0; v < (p.reduce == kSweepNone ? p.views : used); ++v) {
        const float* map = maps + v * map_.floats();
        if (v < used) add_view(camera(item, v), y, x, cells, inverse, step, features, map, sums, counts);
        if (p.reduce != kSweepNone) continue;
        store(sums, cells, item * p.views + v, y, x, volume);
        fill(sums, cells * ld_, 0.0f);
      }
      if (p.reduce == kSweepNone) return;
      for (std::int64_t i = 0; i < cells * ld_; i += PackF::kWidth)
        (PackF::load(sums + i) / max_(PackF::load(counts + i), PackF(1.0f))).store(sums + i);
      store(sums, cells, item, y, x, volume);
    });
  }

 private:
  void store(float* sums, int cells, std::int64_t index, std::int64_t y, std::int64_t x, void* volume) const {
    const SweepProblem& p = problem_;
    store_tile(sums, p.planes, cells, p.dtype, volume, index * p.planes * area_ + y * p.width + x, area_);
  }

  void add_view(const float* camera, std::int64_t y, std::int64_t x, int cells, const float* inverse,
                std::int64_t step, const float* features, const float* map, float* sums,
                float* counts) const {
    const int packs = int(map_.stride / PackF::kWidth);
    SampleDots<N> dots[2] = {{map, map_.pitch, packs}, {map, map_.pitch, packs}};
    CellSamples samples[2];
    const bool where_seen = problem_.reduce == kSweepValidMean;
    alignas(64) float seen[2][CellSamples::kPlanes];
    const auto finish = [&](int c, int slot) {
      for (int i = 0; i < samples[slot].blocks; ++i) {
        PackF found = dots[slot].block(samples[slot], i);
        const std::int64_t at = c * ld_ + samples[slot].plane[i];
        if (where_seen) {
          const PackF weight = PackF::load(seen[slot] + i * PackF::kWidth);
          found = found * weight;
          (PackF::load(counts + at) + weight).store(counts + at);
        }
        (PackF::load(sums + at) + found).store(sums + at);
      }
    };
    int slot = 0, before = -1;
    for (int c = 0; c < cells; ++c)
      for (std::int64_t d = 0; d < ld_; d += CellSamples::kPlanes) {
        CellSamples& here = samples[slot];
        here.clear();
        each_block(
            camera, x + c, y, inverse + c * step, d, d + CellSamples::kPlanes,
            [&](std::int64_t plane, const SampleBlock& s) {
              if (where_seen)
                select(sees(s), PackF(1.0f), PackF(0.0f)).store(seen[slot] + here.blocks * PackF::kWidth);
              here.add(int(plane), s);
            });
        here.finish();
        dots[slot].run(features + c * map_.stride, here);
        slot ^= 1;
        if (before >= 0) finish(before, slot);
        before = c;
      }
    finish(before, slot ^ 1);
  }
};

template <int N>
bool forward_of(const SweepProblem& p, void* volume) {
  const Forward<N> work(p);
  const BorderedMap map(p.channels, p.source_height, p.source_width);
  Scratch<float> maps(std::size_t(map.floats() * p.views));
  if (!maps) return false;
  for (std::int64_t item = 0; item < p.batch; ++item) {
    const bool done =
        pack_sources(p, item, work.views(item), maps.data()) &&
        run_chunks(p.height, p.num_threads, work.slot_floats(),
                   [&](std::int64_t y, float* memory) { work.row(item, y, maps.data(), memory, volume); });
    if (!done) return false;
  }
  return true;
}

// Kernels with one, two or four packs of channels know so when they are compiled.
template <class Fn>
bool with_packs(std::int64_t channels, const Fn& fn) {
  switch (cell_floats(channels) / PackF::kWidth) {
    case 1:
      return fn(std::integral_constant<int, 1>());
    case 2:
      return fn(std::integral_constant<int, 2>());
    case 4:
      return fn(std::integral_constant<int, 4>());
    default:
      return fn(std::integral_constant<int, 0>());
  }
}

bool forward(const SweepProblem& p, void* volume) {
  return with_packs(p.channels, [&](auto n) { return forward_of<decltype(n)::value>(p, volume); });
}

bool backward(const SweepProblem& p, const float* d_volume, void* d_reference, void* d_sources) {
  return with_packs(p.channels, [&](auto n) {
    return SweepBackward<decltype(n)::value>(p, d_volume).run(d_reference, d_sources);
  });
}

bool mask(const SweepProblem& p, bool* out) {
  const SweepTiles tiles(p);
  const std::int64_t ld = tile_ld(p.planes), area = p.height * p.width;
  const bool per_view = p.reduce == kSweepNone;
  return run_chunks(
      p.batch * p.height, p.num_threads, 2 * tile_floats(p.planes), [&](std::int64_t chunk, float* memory) {
        const std::int64_t item = chunk / p.height, y = chunk % p.height, used = tiles.views(item);
        float *inverse = memory, *counts = memory + tile_floats(p.planes);
        tiles.each_tile([&](std::int64_t x, int cells) {
          const auto store = [&](std::int64_t index) {
            for (std::int64_t d = 0; d < p.planes; ++d)
              for (int c = 0; c < cells; ++c)
                out[(index * p.planes + d) * area + y * p.width + x + c] = counts[c * ld + d] > 0.0f;
            fill(counts, cells * ld, 0.0f);
          };
          const std::int64_t step = tiles.inverse_depths(item, y, x, cells, inverse);
          fill(counts, cells * ld, 0.0f);
          for (std::int64_t v = 0; v < (per_view ? p.views : used); ++v) {
            if (v < used) tiles.count_views(item, v, y, x, cells, inverse, step, counts);
            if (per_view) store(item * p.views + v);
          }
          if (!per_view) store(item);
        });
      });
}

}  // namespace

const PlaneSweepKernels& plane_sweep_kernels() {
  static constexpr PlaneSweepKernels kernels{&forward, &backward, &mask};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
