// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Sums over the live entries of one map around a point, with SIMD, reading only the rows that matter.
//
// Entries lie row by row. For every block of 16 entries the row of the first one is kept (EntryBlocks); a
// vectorised count over those few integers gives the blocks that can hold cells within `reach` of the
// point, and the rest of the map is never touched.
#pragma once

#include "cpu/simd.h"
#include "pyloc/gnc.h"
#include "pyloc/loss_map.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "cells are read as pairs of 16-bit integers in little-endian order"
#endif

PYLOC_NAMESPACE_BEGIN

constexpr std::int64_t kBlock = 16;
// Cells beyond this many sigma are left out: exp(-4.5^2 / 2) = 4e-5 of the peak weight.
constexpr double kReachSigmas = 4.5;

// First row of every block, map after map; map n starts at row_ptr[n] / 16 + n.
PYLOC_INLINE std::int64_t first_block(const LossMapsView& maps, std::int64_t n) {
  return maps.row_ptr[n] / kBlock + n;
}
PYLOC_INLINE std::int64_t block_capacity(const LossMapsView& maps) {
  return maps.row_ptr[maps.count] / kBlock + maps.count + 1;
}

inline void index_blocks(const LossMapsView& maps, std::int64_t n, std::int16_t* first_rows) {
  std::int16_t* out = first_rows + first_block(maps, n);
  for (std::int64_t i = maps.row_ptr[n]; i < maps.row_ptr[n + 1]; i += kBlock) *out++ = maps.xy[2 * i + 1];
}

struct EntryRange {
  std::int64_t begin, end;
};

// Entries of map n, in whole blocks, that include all with low <= row <= high.
PYLOC_INLINE EntryRange rows_between(const LossMapsView& maps, const std::int16_t* first_rows, std::int64_t n,
                                     int low, int high) {
  const std::int64_t begin = maps.row_ptr[n], end = maps.row_ptr[n + 1];
  const int blocks = int((end - begin + kBlock - 1) / kBlock);
  const std::int16_t* rows = first_rows + first_block(maps, n);
  const std::int16_t below = std::int16_t(low), above = std::int16_t(high);
  std::int16_t skip_small = 0, keep_small = 0;
  int skip = 0, keep = 0;
  for (int start = 0; start < blocks; start += 16384) {  // 16-bit counters: one vector width more
    const int stop = blocks < start + 16384 ? blocks : start + 16384;
    skip_small = keep_small = 0;
    for (int i = start; i < stop; ++i) {
      skip_small = std::int16_t(skip_small + (rows[i] < below));
      keep_small = std::int16_t(keep_small + (rows[i] <= above));
    }
    skip += skip_small;
    keep += keep_small;
  }
  if (skip > 0) --skip;  // the block before may end inside the rows
  const std::int64_t last = begin + keep * kBlock;
  return {begin + skip * kBlock, last < end ? last : end};
}

// Cells relative to `base`, as floats.
PYLOC_INLINE void unpack_cells(PackI cells, int base_x, int base_y, PackF& x, PackF& y) {
  x = to_float(shift_right(shift_left(cells, 16), 16) - PackI(base_x));
  y = to_float(shift_right(cells, 16) - PackI(base_y));
}

PYLOC_INLINE PackI load_cells(const std::int16_t* xy, std::int64_t i) {
  PackI cells;
  std::memcpy(&cells.raw, xy + 2 * i, sizeof(cells.raw));
  return cells;
}

// Calls use(x, y, gain) over the entries of [range.begin, range.end) in packs; gain is 0 in unused lanes.
template <class Use>
PYLOC_INLINE void for_entries(const LossMapsView& maps, EntryRange range, int base_x, int base_y,
                              const Use& use) {
  constexpr int W = PackF::kWidth;
  PackF x, y;
  std::int64_t i = range.begin;
  for (; i + W <= range.end; i += W) {
    unpack_cells(load_cells(maps.xy, i), base_x, base_y, x, y);
    use(x, y, PackF::load(maps.gain + i));
  }
  if (i >= range.end) return;
  const int left = int(range.end - i);
  if (i + W <= maps.row_ptr[maps.count]) {  // what follows belongs to the next map: readable, weight 0
    unpack_cells(load_cells(maps.xy, i), base_x, base_y, x, y);
    const PackF gain = PackF::load(maps.gain + i);
    use(x, y, select(PackF::iota() < float(left), gain, PackF(0.0f)));
  } else {
    PackI cells(0);
    std::memcpy(&cells.raw, maps.xy + 2 * i, 4 * std::size_t(left));
    unpack_cells(cells, base_x, base_y, x, y);
    use(x, y, PackF::load_partial(maps.gain + i, left));
  }
}

// A point in map coordinates as an integer cell and a fraction: differences to cells stay exact in float32.
struct SplitPoint {
  int x, y;
  float fx, fy;
};

PYLOC_INLINE SplitPoint split_point(double px, double py) {
  const double x = ::floor(px), y = ::floor(py);
  return {int(x), int(y), float(px - x), float(py - y)};
}

struct EntryWindow {
  EntryRange range;
  SplitPoint p;
};

PYLOC_INLINE EntryWindow window_around(const LossMapsView& maps, const std::int16_t* first_rows,
                                       std::int64_t n, double px, double py, double reach) {
  const SplitPoint p = split_point(px, py);
  const int low = int(::floor(py - reach)), high = int(::floor(py + reach));
  return {rows_between(maps, first_rows, n, low < 0 ? 0 : low, high > 32767 ? 32767 : high), p};
}

// S_0, S_x, S_y of gnc.h for map n around (px, py), which must lie within 30000 cells of the map.
PYLOC_INLINE MapSums<double> map_sums(const LossMapsView& maps, const std::int16_t* first_rows,
                                      std::int64_t n, double px, double py, double sigma) {
  const EntryWindow w = window_around(maps, first_rows, n, px, py, kReachSigmas * sigma);
  const PackF exponent(float(gnc_exponent(sigma))), fx(w.p.fx), fy(w.p.fy);
  MapSums<PackF> s{PackF(0.0f), PackF(0.0f), PackF(0.0f)};
  for_entries(maps, w.range, w.p.x, w.p.y,
              [&](PackF x, PackF y, PackF gain) { add_entry(s, x - fx, y - fy, gain, exponent); });
  return {double(reduce_add(s.mass)), double(reduce_add(s.x)), double(reduce_add(s.y))};
}

inline MapSums<double> map_moments(const LossMapsView& maps, const std::int16_t* first_rows, std::int64_t n,
                                   double px, double py, double sigma, MapMoments<double>& moments) {
  const EntryWindow w = window_around(maps, first_rows, n, px, py, kReachSigmas * sigma);
  const PackF exponent(float(gnc_exponent(sigma))), fx(w.p.fx), fy(w.p.fy), zero(0.0f);
  MapSums<PackF> s{zero, zero, zero};
  MapMoments<PackF> m{zero, zero, zero};
  for_entries(maps, w.range, w.p.x, w.p.y, [&](PackF x, PackF y, PackF gain) {
    const PackF rx = x - fx, ry = y - fy;
    add_moments(m, rx, ry, add_entry(s, rx, ry, gain, exponent));
  });
  moments = {double(reduce_add(m.xx)), double(reduce_add(m.xy)), double(reduce_add(m.yy))};
  return {double(reduce_add(s.mass)), double(reduce_add(s.x)), double(reduce_add(s.y))};
}

// Twin of map_evidence (pyloc/consensus.h) in SIMD: peak gain and number of entries at half of it or above.
PYLOC_INLINE void peak_and_count(const float* gain, std::int64_t count, float half, float& peak,
                                 std::int64_t& high) {
  constexpr int W = PackF::kWidth;
  PackF best(0.0f);
  std::int64_t i = 0;
  for (; i + W <= count; i += W) best = max_(best, PackF::load(gain + i));
  if (i < count) best = max_(best, PackF::load_partial(gain + i, int(count - i)));
  peak = reduce_max(best);
  const PackF limit(half * peak), one(1.0f), none(0.0f);
  PackF found(0.0f);
  for (i = 0; i + W <= count; i += W) found += select(PackF::load(gain + i) >= limit, one, none);
  if (i < count) found += select(PackF::load_partial(gain + i, int(count - i), -1.0f) >= limit, one, none);
  high = std::int64_t(reduce_add(found));
}

PYLOC_NAMESPACE_END
