// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gradients of the plane sweep. With g the volume's gradient times the view's weight, a sample gives g w_t
// F_t to its cell of the reference and g w_t f to tap t of the source. In a run of planes between the same
// four taps only the sums of g w_t are needed, so both cost one pass over four taps per run.
//
// A view's gradient belongs to one chunk of work (few views: to several, each with a copy, added up in
// order), so that nothing is added by two threads and the bits depend on nothing but the arguments.
#pragma once

#include "cpu/sweep_tiles.h"

PYLOC_NAMESPACE_BEGIN

// Lane i: the sum of the lanes of its run up to i, in `runs` one number per lane.
template <int B = 1>
PYLOC_INLINE void sum_within_runs(PackI runs, PackF* values) {
  if constexpr (B < PackF::kWidth) {
    const PackI before = shifted_by<B>(runs, PackI(-1), kLanes);
    const PackMask<float> same{(runs == before).raw};
    for (int t = 0; t < 4; ++t)
      values[t] = values[t] + select(same, shifted_by<B>(values[t], PackF(0.0f), kLanes), PackF(0.0f));
    sum_within_runs<2 * B>(runs, values);
  }
}

template <int... I>
PYLOC_INLINE PackF last_lane(PackF a, std::integer_sequence<int, I...>) {
  return PackF(__builtin_shufflevector(a.raw, a.raw, (PackF::kWidth - 1 + 0 * I)...));
}

// Sums of g w_t over the runs of a cell's samples, added to the gradients of the cell and of one source.
// `packs` as in SampleDots.
template <int N>
class SampleGradients {
 public:
  SampleGradients(const float* map, float* d_map, std::int64_t pitch, int packs)
      : map_(map),
        d_map_(d_map),
        packs_(N ? N : packs),
        stride_(packs_ * PackF::kWidth),
        down_(pitch * stride_) {}

  // `slopes`: g of every plane of the samples' blocks, one block after the other.
  PYLOC_INLINE void shares(const CellSamples& s, const float* slopes) {
    PackF carried[4] = {PackF(0.0f), PackF(0.0f), PackF(0.0f), PackF(0.0f)};
    for (int i = 0; i < s.blocks; ++i) {
      TapWeights weights(PackF::load(s.a + i * W), PackF::load(s.b + i * W));
      const PackI runs = PackI::load(s.run + i * W);
      const PackF slope = PackF::load(slopes + i * W);
      for (PackF& w : weights.w) w = w * slope;
      sum_within_runs(runs, weights.w);
      const PackMask<float> goes_on{(runs == PackI(s.starts[i] & 1 ? -1 : 0)).raw};
      const std::uint32_t ends = s.starts[i] >> 1 | 1u << (W - 1);
      for (int t = 0; t < 4; ++t) {
        const PackF sum = weights.w[t] + select(goes_on, carried[t], PackF(0.0f));
        carried[t] = last_lane(sum, kLanes);
        store_chosen(sum, ends, shares_[t] + s.first_run[i]);
      }
    }
  }

  PYLOC_INLINE void add(const float* features, const CellSamples& s, float* d_features) const {
    for (int k = 0; k < (N ? N : packs_); ++k) {
      const PackF f = PackF::load(features + k * W);
      PackF d[4] = {PackF(0.0f), PackF(0.0f), PackF(0.0f), PackF(0.0f)};
      // Every other run, then the rest: neighbouring runs share taps, and would wait for each other's sums to
      // come back from memory.
      for (int first = 0; first < 2; ++first)
        for (int r = first; r < s.runs; r += 2) add_run(f, s.taps[r] * stride_ + k * W, r, d);
      (PackF::load(d_features + k * W) + ((d[0] + d[1]) + (d[2] + d[3]))).store(d_features + k * W);
    }
  }

 private:
  static constexpr int W = PackF::kWidth;

  PYLOC_INLINE void add_run(PackF f, std::int64_t at, int r, PackF d[4]) const {
    const std::int64_t steps[4] = {0, stride_, down_, down_ + stride_};
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
      const PackF weight(shares_[t][r]);
      const std::int64_t i = at + steps[t];
      d[t] = fma_(weight, PackF::load(map_ + i), d[t]);
      fma_(weight, f, PackF::load(d_map_ + i)).store(d_map_ + i);
    }
  }

  const float* map_;
  float* d_map_;
  int packs_;
  std::int64_t stride_, down_;
  alignas(64) float shares_[4][CellSamples::kPlanes + W];
};

template <int N>
class SweepBackward : public SweepTiles {
 public:
  SweepBackward(const cpu::SweepProblem& p, const float* d_volume) : SweepTiles(p), d_volume_(d_volume) {}

  bool run(void* d_reference, void* d_sources) {
    const cpu::SweepProblem& p = problem_;
    const std::int64_t cells = area_ * map_.stride, slopes = p.reduce == cpu::kSweepValidMean;
    Scratch<float> maps(std::size_t(map_.floats() * p.views)), features((std::size_t(cells)));
    Scratch<float> d_maps(std::size_t(map_.floats() * (p.views > kChunks ? p.views : kChunks)));
    Scratch<float> d_features(std::size_t(cells * p.views));
    Scratch<float> scaled(std::size_t(slopes * p.planes * area_));
    if (!maps || !features || !d_maps || !d_features || !scaled) return false;
    maps_ = maps.data(), features_ = features.data(), d_maps_ = d_maps.data();
    d_features_ = d_features.data(), scaled_ = scaled.data();
    for (std::int64_t item = 0; item < p.batch; ++item)
      if (!run_item(item, d_reference, d_sources)) return false;
    return true;
  }

 private:
  // Few views are cut into parts of the reference's rows, so that there are about so many chunks of work.
  static constexpr std::int64_t kChunks = 8;
  static std::int64_t parts(std::int64_t used) { return used < kChunks ? kChunks / used : 1; }

  bool run_item(std::int64_t item, void* d_reference, void* d_sources) const {
    const cpu::SweepProblem& p = problem_;
    const std::int64_t used = views(item), room = map_.stride * round_up(p.width, 16);
    const PlanarMap reference{p.reference, p.dtype, item * p.channels * area_, p.channels, p.height, p.width};
    const auto chunks = [&](std::int64_t count, std::int64_t floats, const auto& fn) {
      return run_chunks(count, p.num_threads, floats, fn);
    };
    return pack_sources(p, item, used, maps_) &&
           chunks(p.height, room,
                  [&](std::int64_t y, float* memory) {
                    pack_cells(reference, y, memory, features_ + y * p.width * map_.stride);
                  }) &&
           (p.reduce != cpu::kSweepValidMean ||
            chunks(p.height, 3 * tile_floats(p.planes),
                   [&](std::int64_t y, float* memory) { scale_row(item, y, memory); })) &&
           chunks(used * parts(used), 2 * tile_floats(p.planes),
                  [&](std::int64_t chunk, float* memory) { view_rows(item, chunk, memory); }) &&
           chunks(p.height, room,
                  [&](std::int64_t y, float* memory) {
                    finish_reference(reference, used, y, memory, d_reference);
                  }) &&
           chunks(p.views * p.source_height, 2 * map_.stride * round_up(p.source_width, 16),
                  [&](std::int64_t chunk, float* memory) { finish_source(item, chunk, memory, d_sources); });
  }

  // d_volume over the number of views that see the cell.
  void scale_row(std::int64_t item, std::int64_t y, float* inverse) const {
    const std::int64_t size = tile_floats(problem_.planes), used = views(item);
    float *counts = inverse + size, *slopes = counts + size;
    each_tile([&](std::int64_t x, int cells) {
      const std::int64_t at = y * problem_.width + x, step = inverse_depths(item, y, x, cells, inverse);
      std::memset(counts, 0, sizeof(float) * std::size_t(cells * ld_));
      for (std::int64_t v = 0; v < used; ++v) count_views(item, v, y, x, cells, inverse, step, counts);
      load_tile(d_volume_ + item * problem_.planes * area_ + at, area_, problem_.planes, cells, 0.0f, slopes);
      for (std::int64_t i = 0; i < cells * ld_; i += PackF::kWidth)
        (PackF::load(slopes + i) / max_(PackF::load(counts + i), PackF(1.0f))).store(slopes + i);
      store_tile(slopes, problem_.planes, cells, kFloat32, scaled_, at, area_);
    });
  }

  // One view, or one part of the reference's rows of it.
  void view_rows(std::int64_t item, std::int64_t chunk, float* inverse) const {
    const cpu::SweepProblem& p = problem_;
    const std::int64_t each = parts(views(item)), v = chunk / each, part = chunk % each;
    const std::int64_t stride = map_.stride;
    float *slopes = inverse + tile_floats(p.planes), *d_map = d_maps_ + chunk * map_.floats();
    std::memset(d_map, 0, sizeof(float) * std::size_t(map_.floats()));
    SampleGradients<N> gradients(maps_ + v * map_.floats(), d_map, map_.pitch, int(stride / PackF::kWidth));
    CellSamples samples;
    alignas(64) float used[CellSamples::kPlanes];
    const bool where_seen = p.reduce == cpu::kSweepValidMean;
    const PackF divisor(p.reduce == cpu::kSweepMean ? float(views(item)) : 1.0f);
    const std::int64_t volume = p.planes * area_;
    const float* from = where_seen ? scaled_ : d_volume_ + item * volume;
    if (p.reduce == cpu::kSweepNone) from = d_volume_ + (item * p.views + v) * volume;
    for (std::int64_t y = p.height * part / each; y < p.height * (part + 1) / each; ++y)
      each_tile([&](std::int64_t x, int cells) {
        const std::int64_t step = inverse_depths(item, y, x, cells, inverse), at = y * p.width + x;
        load_tile(from + at, area_, p.planes, cells, 0.0f, slopes);
        for (int c = 0; c < cells; ++c) {
          float* d_features = d_features_ + (v * area_ + at + c) * stride;
          std::memset(d_features, 0, sizeof(float) * std::size_t(stride));
          for (std::int64_t d = 0; d < ld_; d += CellSamples::kPlanes) {
            samples.clear();
            each_block(camera(item, v), x + c, y, inverse + c * step, d, d + CellSamples::kPlanes,
                       [&](std::int64_t plane, const SampleBlock& s) {
                         PackF slope = PackF::load(slopes + c * ld_ + plane) / divisor;
                         if (where_seen) slope = select(sees(s), slope, PackF(0.0f));
                         slope.store(used + samples.blocks * PackF::kWidth);
                         samples.add(int(plane), s);
                       });
            gradients.shares(samples, used);
            gradients.add(features_ + (at + c) * stride, samples, d_features);
          }
        }
      });
  }

  // The views' shares of a row of the reference, added in order.
  void finish_reference(const PlanarMap& reference, std::int64_t used, std::int64_t y, float* memory,
                        void* out) const {
    const std::int64_t count = problem_.width * map_.stride;
    float* row = d_features_ + y * count;
    for (std::int64_t v = 1; v < used; ++v) add_floats(row + v * area_ * map_.stride, count, row);
    unpack_cells(row, reference, y, memory, out);
  }

  void finish_source(std::int64_t item, std::int64_t chunk, float* memory, void* out) const {
    const cpu::SweepProblem& p = problem_;
    const std::int64_t v = chunk / p.source_height, y = chunk % p.source_height;
    const std::int64_t size = p.channels * p.source_height * p.source_width;
    const PlanarMap to{nullptr,    p.dtype,         (item * p.views + v) * size,
                       p.channels, p.source_height, p.source_width};
    const std::int64_t used = views(item), each = parts(used), count = p.source_width * map_.stride;
    float* row = map_.row(d_maps_ + (v < used ? v * each : 0) * map_.floats(), y);
    if (v >= used) {
      row = memory + map_.stride * round_up(p.source_width, 16);
      std::memset(row, 0, sizeof(float) * std::size_t(count));
    }
    for (std::int64_t part = 1; v < used && part < each; ++part)
      add_floats(row + part * map_.floats(), count, row);
    unpack_cells(row, to, y, memory, out);
  }

  static void add_floats(const float* from, std::int64_t count, float* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
  }

  const float* d_volume_;
  float *maps_ = nullptr, *features_ = nullptr, *d_maps_ = nullptr, *d_features_ = nullptr;
  float* scaled_ = nullptr;
};

PYLOC_NAMESPACE_END
