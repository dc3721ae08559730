// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Tiles of a sweep: up to kTileCells neighbouring cells of a row by all planes, planes next to each other in
// memory, while volumes hold cells next to each other.
#pragma once

#include <limits>

#include "cpu/plane_sweep.h"
#include "cpu/sweep_maps.h"
#include "cpu/sweep_samples.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kTileCells = 16;

PYLOC_INLINE std::int64_t tile_ld(std::int64_t planes) { return round_up(planes, PackF::kWidth); }
PYLOC_INLINE std::int64_t tile_floats(std::int64_t planes) { return kTileCells * tile_ld(planes); }

// tile[x * tile_ld(D) + d] = from[d * step + x] for x below `cells`; `fill` beyond the planes.
inline void load_tile(const float* from, std::int64_t step, std::int64_t planes, int cells, float fill,
                      float* tile) {
  constexpr int W = PackF::kWidth;
  const std::int64_t ld = tile_ld(planes);
  for (std::int64_t d = 0; d < planes; d += W)
    for (int x = 0; x < cells; x += W) {
      PackF rows[W];
      const int count = cells - x < W ? cells - x : W;
      for (int i = 0; i < W; ++i) {
        const float* row = from + (d + i) * step + x;
        if (d + i >= planes)
          rows[i] = PackF(fill);
        else
          rows[i] = count == W ? PackF::load(row) : PackF::load_partial(row, count);
      }
      transpose_groups<W>(rows);
      for (int i = 0; i < count; ++i) rows[i].store(tile + (x + i) * ld + d);
    }
}

// The way back, into an array of any feature dtype at element first + d * step + x. Overwrites the tile.
inline void store_tile(float* tile, std::int64_t planes, int cells, int dtype, void* to, std::int64_t first,
                       std::int64_t step) {
  constexpr int W = PackF::kWidth;
  const std::int64_t ld = tile_ld(planes);
  for (std::int64_t d = 0; d < planes; d += W)
    for (int x = 0; x < cells; x += W) {
      PackF rows[W];
      const int count = cells - x < W ? cells - x : W;
      for (int i = 0; i < W; ++i) rows[i] = PackF::load(tile + (x + i) * ld + d);
      transpose_groups<W>(rows);
      for (int i = 0; i < W && d + i < planes; ++i) {
        const std::int64_t at = first + (d + i) * step + x;
        alignas(64) float lanes[W];
        if (dtype == kFloat32 && count == W) {
          rows[i].store(static_cast<float*>(to) + at);
        } else {
          rows[i].store(lanes);
          store_row(dtype, lanes, count, to, at, 1);
        }
      }
    }
}

// What forward, backward and mask share: where things lie, and the inverse depths of a tile.
class SweepTiles {
 public:
  explicit SweepTiles(const cpu::SweepProblem& p)
      : problem_(p),
        map_(p.channels, p.source_height, p.source_width),
        area_(p.height * p.width),
        ld_(tile_ld(p.planes)) {}

  std::int64_t views(std::int64_t item) const {
    return problem_.num_views ? problem_.num_views[item] : problem_.views;
  }

  // 1 / d of a tile: of cell c at inverse[c * step]. Lanes beyond the planes are NaN, which touches nothing.
  std::int64_t inverse_depths(std::int64_t item, std::int64_t y, std::int64_t x, int cells,
                              float* inverse) const {
    const cpu::SweepProblem& p = problem_;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    if (p.per_cell) {
      load_tile(p.depths + item * p.planes * area_ + y * p.width + x, area_, p.planes, cells, nan, inverse);
    } else {
      std::memcpy(inverse, p.depths + item * p.planes, sizeof(float) * std::size_t(p.planes));
      for (std::int64_t d = p.planes; d < ld_; ++d) inverse[d] = nan;
    }
    const std::int64_t count = p.per_cell ? cells * ld_ : ld_;
    for (std::int64_t i = 0; i < count; i += PackF::kWidth)
      (PackF(1.0f) / PackF::load(inverse + i)).store(inverse + i);
    return p.per_cell ? ld_ : 0;
  }

  const float* camera(std::int64_t item, std::int64_t view) const {
    return problem_.projection + (item * problem_.views + view) * 12;
  }

  // Calls fn(d, samples) for the packs of planes from `first` to `last` of a cell of which a sample touches
  // the map of a view.
  template <class Fn>
  PYLOC_INLINE void each_block(const float* camera, std::int64_t x, std::int64_t y, const float* inverse,
                               std::int64_t first, std::int64_t last, const Fn& fn) const {
    const SweepVector<float> ray = sweep_ray(camera, float(x), float(y));
    for (std::int64_t d = first; d < (last < ld_ ? last : ld_); d += PackF::kWidth) {
      SampleBlock samples;
      if (place_samples(camera, ray, PackF::load(inverse + d), problem_.source_height, problem_.source_width,
                        samples))
        fn(d, samples);
    }
  }

  PackMask<float> sees(const SampleBlock& s) const {
    return sweep_sees(s.at, float(problem_.source_width), float(problem_.source_height));
  }

  // Adds one to counts[c * ld + d] where the view sees a cell.
  void count_views(std::int64_t item, std::int64_t view, std::int64_t y, std::int64_t x, int cells,
                   const float* inverse, std::int64_t step, float* counts) const {
    for (int c = 0; c < cells; ++c)
      each_block(camera(item, view), x + c, y, inverse + c * step, 0, ld_,
                 [&](std::int64_t d, const SampleBlock& s) {
                   float* to = counts + c * ld_ + d;
                   (PackF::load(to) + select(sees(s), PackF(1.0f), PackF(0.0f))).store(to);
                 });
  }

  // Calls fn(x, cells) for the tiles of a row.
  template <class Fn>
  void each_tile(const Fn& fn) const {
    for (std::int64_t x = 0; x < problem_.width; x += kTileCells)
      fn(x, problem_.width - x < kTileCells ? int(problem_.width - x) : kTileCells);
  }

 protected:
  const cpu::SweepProblem& problem_;
  BorderedMap map_;
  std::int64_t area_, ld_;
};

// Packs the sources of an item, `views` maps with borders one after the other.
inline bool pack_sources(const cpu::SweepProblem& p, std::int64_t item, std::int64_t views, float* maps) {
  const BorderedMap map(p.channels, p.source_height, p.source_width);
  const std::int64_t floats = map.stride * round_up(p.source_width, PackF::kWidth);
  return run_chunks(views * p.source_height, p.num_threads, floats, [&](std::int64_t chunk, float* memory) {
    const std::int64_t view = chunk / p.source_height, size = p.source_height * p.source_width;
    const PlanarMap from{p.sources,  p.dtype,         (item * p.views + view) * p.channels * size,
                         p.channels, p.source_height, p.source_width};
    map.pack(from, chunk % p.source_height, memory, maps + view * map.floats());
  });
}

PYLOC_NAMESPACE_END
