// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/maps.h"

#include "cpu/top_cells.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kChunk = runtime::SparseRows::kChunkRows;

std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t clamp(std::int64_t v, std::int64_t low, std::int64_t high) {
  return v < low ? low : v > high ? high : v;
}

// Gains of up to a pack of cells; lanes beyond n are 0. False when a loss is NaN, -inf, or so low that its
// gain leaves float32.
template <class T>
PYLOC_INLINE bool load_gain(const T* loss, int n, T cut, PackF& gain) {
  alignas(64) float g[PackF::kWidth] = {};
  bool ok = true;
  for (int i = 0; i < n; ++i) {
    g[i] = static_cast<float>(cut - loss[i]);
    ok &= loss[i] > -static_cast<T>(INFINITY) && g[i] < INFINITY;
  }
  gain = PackF::load(g);
  return ok;
}

PYLOC_INLINE bool load_gain(const float* loss, int n, float cut, PackF& gain) {
  const PackF value = n == PackF::kWidth ? PackF::load(loss) : PackF::load_partial(loss, n, cut);
  gain = PackF(cut) - value;
  return all(value > -INFINITY) && all(gain < INFINITY);
}

// The cells of map n that lie in the full map, offered with their index in the window's array.
template <class T>
DenseStatus collect(const DenseMaps& in, std::int64_t n, TopCells& top) {
  const std::int64_t x0 = in.origins ? in.origins[2 * n] : 0, y0 = in.origins ? in.origins[2 * n + 1] : 0;
  const std::int64_t left = clamp(-x0, 0, in.w), right = clamp(in.map_w - x0, left, in.w);
  const std::int64_t first = clamp(-y0, 0, in.h), last = clamp(in.map_h - y0, first, in.h);
  const T* maps = static_cast<const T*>(in.maps) + n * in.h * in.w;
  const T cut = static_cast<T>(in.log_cardinality);
  bool ok = true;
  if (!top.start(in.limit, 0.0f)) return DenseStatus::kOutOfMemory;
  for (std::int64_t y = first; y < last; ++y)
    for (std::int64_t x = left; x < right; x += PackF::kWidth) {
      PackF gain;
      const std::int64_t cell = y * in.w + x;
      ok &= load_gain(maps + cell, static_cast<int>(min_of(right - x, PackF::kWidth)), cut, gain);
      top.offer(gain, static_cast<std::int32_t>(cell));
    }
  top.finish(0.0f);
  if (top.out_of_memory()) return DenseStatus::kOutOfMemory;
  return ok ? DenseStatus::kOk : DenseStatus::kNotNumbers;
}

DenseStatus append(const DenseMaps& in, std::int64_t n, const TopCells& top, runtime::SparseRows& rows) {
  const std::int32_t x0 = in.origins ? in.origins[2 * n] : 0, y0 = in.origins ? in.origins[2 * n + 1] : 0;
  runtime::SparseChunk& chunk = rows.chunk[n / kChunk];
  if (!runtime::reserve_entries(chunk, top.size())) return DenseStatus::kOutOfMemory;
  for (std::int64_t i = 0; i < top.size(); ++i) {
    const std::int32_t cell = top.cell(i);
    chunk.cells[chunk.size + i] = cell_key(x0 + cell % in.w, y0 + cell / in.w);
    chunk.gain[chunk.size + i] = top.value(i);
  }
  chunk.size += top.size();
  rows.lengths[n] = top.size();
  return DenseStatus::kOk;
}

DenseStatus from_dense(const DenseMaps& in, int num_threads, runtime::SparseRows& rows) {
  Scratch<DenseStatus> status(static_cast<std::size_t>(rows.chunks));
  if (!status) return DenseStatus::kOutOfMemory;
  runtime::parallel_for(rows.chunks, num_threads, [&](std::int64_t c) {
    TopCells top;
    status[c] = DenseStatus::kOk;
    for (std::int64_t n = c * kChunk; n < min_of((c + 1) * kChunk, in.count); ++n) {
      DenseStatus s = in.dtype == kFloat32 ? collect<float>(in, n, top) : collect<double>(in, n, top);
      if (s == DenseStatus::kOk) s = append(in, n, top, rows);
      if (s != DenseStatus::kOk) status[c] = s;
    }
  });
  DenseStatus worst = DenseStatus::kOk;
  for (std::int64_t c = 0; c < rows.chunks; ++c)
    if (status[c] != DenseStatus::kOk) worst = status[c];
  return worst;
}

void to_dense(const LossMapsView& maps, float fill, float* out) {
  const std::int64_t cells = std::int64_t{maps.window_w} * maps.window_h;
  const float cut = static_cast<float>(maps.log_cardinality);
  for (std::int64_t n = 0; n < maps.count; ++n, out += cells) {
    for (std::int64_t i = 0; i < cells; ++i) out[i] = fill;
    const std::int64_t x0 = maps.origins ? maps.origins[2 * n] : 0;
    const std::int64_t y0 = maps.origins ? maps.origins[2 * n + 1] : 0;
    for (std::int64_t i = maps.row_ptr[n]; i < maps.row_ptr[n + 1]; ++i)
      out[(maps.xy[2 * i + 1] - y0) * maps.window_w + maps.xy[2 * i] - x0] = cut - maps.gain[i];
  }
}

// In chunks of maps, so that a map's entries stay in cache over the poses.
template <class Fn>
void for_each_map(std::int64_t count, int num_threads, const Fn& fn) {
  constexpr std::int64_t kMaps = 64;
  runtime::parallel_for((count + kMaps - 1) / kMaps, num_threads, [&](std::int64_t c) {
    for (std::int64_t n = c * kMaps; n < min_of((c + 1) * kMaps, count); ++n) fn(n);
  });
}

double clamp_to_border(double v, std::int32_t cells) { return v < 0 ? 0.0 : v > cells - 1 ? cells - 1.0 : v; }

void evaluate(const LossMapsView& maps, const double* xy, std::int64_t M, bool clamp_points, int num_threads,
              double* out) {
  for_each_map(maps.count, num_threads, [&](std::int64_t n) {
    for (std::int64_t m = 0; m < M; ++m) {
      const std::int64_t at = m * maps.count + n;
      double x = xy[2 * at], y = xy[2 * at + 1];
      if (clamp_points) x = clamp_to_border(x, maps.map_w), y = clamp_to_border(y, maps.map_h);
      out[at] = maps.log_cardinality - bilinear_gain(maps, n, x, y);
    }
  });
}

// Length of the part of [c - 1/2, c + 1/2] within [low, high].
double overlap(double c, double low, double high) {
  const double a = c - 0.5 > low ? c - 0.5 : low, b = c + 0.5 < high ? c + 0.5 : high;
  return b > a ? b - a : 0.0;
}

void mass(const LossMapsView& maps, const double* centers, double window_w, double window_h, int num_threads,
          double* out) {
  for_each_map(maps.count, num_threads, [&](std::int64_t n) {
    const double x = centers[2 * n], y = centers[2 * n + 1];
    const double left = x - window_w / 2, right = x + window_w / 2;
    const double upper = y - window_h / 2, lower = y + window_h / 2;
    out[n] = 0;
    if (!(right > -0.5 && left < maps.map_w - 0.5 && lower > -0.5 && upper < maps.map_h - 0.5)) return;
    const std::int64_t end = maps.row_ptr[n + 1];
    // The first row that can overlap; upper + 1/2 is less than map_h here.
    const auto row = static_cast<std::int32_t>(upper > 0.5 ? upper - 0.5 : 0.0);
    double sum = 0;
    for (std::int64_t i = lower_bound_cell(maps.xy, maps.row_ptr[n], end, cell_key(0, row)); i < end; ++i) {
      if (maps.xy[2 * i + 1] - 0.5 >= lower) break;
      const double area = overlap(maps.xy[2 * i], left, right) * overlap(maps.xy[2 * i + 1], upper, lower);
      if (area > 0) sum += area * ::exp(maps.gain[i] - maps.log_cardinality);
    }
    out[n] = sum;
  });
}

void peaks(const LossMapsView& maps, std::int32_t* xy, float* gain) {
  for (std::int64_t n = 0; n < maps.count; ++n) {
    std::int64_t best = -1;
    float top = 0;
    for (std::int64_t i = maps.row_ptr[n]; i < maps.row_ptr[n + 1]; ++i)
      if (maps.gain[i] > top) top = maps.gain[i], best = i;
    gain[n] = top;
    xy[2 * n] = best < 0 ? -1 : maps.xy[2 * best];
    xy[2 * n + 1] = best < 0 ? -1 : maps.xy[2 * best + 1];
  }
}

void take(const LossMapsView& maps, const std::int64_t* index, std::int64_t K, const std::int64_t* out_ptr,
          std::int16_t* xy, float* gain) {
  for (std::int64_t k = 0; k < K; ++k) {
    const std::int64_t from = maps.row_ptr[index[k]];
    const auto entries = static_cast<std::size_t>(maps.row_ptr[index[k] + 1] - from);
    if (entries == 0) continue;
    std::memcpy(xy + 2 * out_ptr[k], maps.xy + 2 * from, 4 * entries);
    std::memcpy(gain + out_ptr[k], maps.gain + from, 4 * entries);
  }
}

}  // namespace

const MapsKernels& maps_kernels() {
  static constexpr MapsKernels kernels{&from_dense, &to_dense, &evaluate, &mass, &peaks, &take};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
