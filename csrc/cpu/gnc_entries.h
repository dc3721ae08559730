// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Sums over the live entries of one map around a point, with SIMD, reading only the rows that matter
// (pyloc/gnc_index.h).
#pragma once

#include "cpu/simd.h"
#include "pyloc/gnc.h"
#include "pyloc/gnc_index.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "cells are read as pairs of 16-bit integers in little-endian order"
#endif

PYLOC_NAMESPACE_BEGIN

// 2^x for x <= 0, relative error 3e-6: round to an integer exponent and a fraction in [-1/2, 1/2], polynomial
// of degree 4 fitted for the smallest relative error there. Below -100 it stays at 2^-100, which is nothing
// beside any sum here; denormal results would cost half the speed.
PYLOC_INLINE PackF decay(PackF x) {
  const PackF clamped = max_(x, PackF(-100.0f));
#if defined(__AVX512F__)
  const PackF n(
      (PackF::Raw)_mm512_roundscale_ps((__m512)clamped.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const PackF n = floor_(clamped + 0.5f);
#endif
  const PackF f = clamped - n;
  PackF p(0.00957009651f);
  p = fma_(p, f, PackF(0.0559178599f));
  p = fma_(p, f, PackF(0.24024745f));
  p = fma_(p, f, PackF(0.693121815f));
  p = fma_(p, f, PackF(0.999999261f));
#if defined(__AVX512F__)
  return PackF((PackF::Raw)_mm512_scalef_ps((__m512)p.raw, (__m512)n.raw));
#else
  return p * from_bits(shift_left(to_int(n) + 127, 23));
#endif
}

inline void index_blocks(const LossMapsView& maps, std::int64_t n, std::int16_t* first_rows) {
  std::int16_t* out = first_rows + first_group(maps, n) * kBlocksPerGroup;
  std::int64_t blocks = 0;
  for (std::int64_t i = maps.row_ptr[n]; i < maps.row_ptr[n + 1]; i += kEntriesPerBlock)
    out[blocks++] = maps.xy[2 * i + 1];
  for (; blocks % kBlocksPerGroup != 0; ++blocks) out[blocks] = kNoRow;
}

// How many of the 16 rows are <= limit.
PYLOC_INLINE int count_up_to(const std::int16_t* rows, std::int16_t limit) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows));
  return __builtin_popcount(_mm256_cmple_epi16_mask(values, _mm256_set1_epi16(limit)));
#elif defined(__AVX2__)
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows));
  const int above = _mm256_movemask_epi8(_mm256_cmpgt_epi16(values, _mm256_set1_epi16(limit)));
  return 16 - __builtin_popcount(unsigned(above)) / 2;
#else
  int count = 0;
  for (int i = 0; i < kBlocksPerGroup; ++i) count += rows[i] <= limit ? 1 : 0;
  return count;
#endif
}

// Entries of map n, in whole blocks, that include all with low <= row <= high; low >= 0, high < kNoRow.
PYLOC_INLINE EntryRange rows_between(const LossMapsView& maps, const std::int16_t* first_rows, std::int64_t n,
                                     int low, int high) {
  const std::int64_t begin = maps.row_ptr[n], end = maps.row_ptr[n + 1];
  const std::int16_t* rows = first_rows + first_group(maps, n) * kBlocksPerGroup;
  std::int64_t skip = 0, keep = 0;
  for (std::int64_t i = begin; i < end; i += kEntriesPerBlock * kBlocksPerGroup, rows += kBlocksPerGroup) {
    skip += count_up_to(rows, std::int16_t(low - 1));
    keep += count_up_to(rows, std::int16_t(high));
  }
  if (skip > 0) --skip;  // the block before may end inside the rows
  const std::int64_t last = begin + keep * kEntriesPerBlock;
  return {begin + skip * kEntriesPerBlock, last < end ? last : end};
}

// Pairs of 16-bit integers, twice as many as there are float lanes.
typedef std::int16_t PackShort __attribute__((vector_size(PYLOC_SIMD_BYTES)));

PYLOC_INLINE PackI load_cells(const std::int16_t* xy, std::int64_t i) {
  PackI cells;
  std::memcpy(&cells.raw, xy + 2 * i, sizeof(cells.raw));
  return cells;
}

// Cells relative to `base` (the pair of 16-bit integers), as floats. Points lie within kOutside cells of the
// map and maps have at most 32000, so that differences fit 16 bits.
PYLOC_INLINE void unpack_cells(PackI cells, PackI base, PackF& x, PackF& y) {
  const PackI away(PackI::Raw((PackShort)cells.raw - (PackShort)base.raw));
  x = to_float(shift_right(shift_left(away, 16), 16));
  y = to_float(shift_right(away, 16));
}

// Calls use(x, y, gain) over the entries of [range.begin, range.end) in packs; gain is 0 in unused lanes.
template <class Use>
PYLOC_INLINE void for_entries(const LossMapsView& maps, EntryRange range, PackI base, const Use& use) {
  constexpr int W = PackF::kWidth;
  PackF x, y;
  std::int64_t i = range.begin;
  for (; i + W <= range.end; i += W) {
    unpack_cells(load_cells(maps.xy, i), base, x, y);
    use(x, y, PackF::load(maps.gain + i));
  }
  if (i >= range.end) return;
  const int left = int(range.end - i);
  if (i + W <= maps.row_ptr[maps.count]) {  // what follows belongs to the next map: readable, weight 0
    unpack_cells(load_cells(maps.xy, i), base, x, y);
    const PackF gain = PackF::load(maps.gain + i);
    use(x, y, select(PackF::iota() < float(left), gain, PackF(0.0f)));
  } else {
    PackI cells(0);
    std::memcpy(&cells.raw, maps.xy + 2 * i, 4 * std::size_t(left));
    unpack_cells(cells, base, x, y);
    use(x, y, PackF::load_partial(maps.gain + i, left));
  }
}

// A point as an integer cell and a fraction, so that differences to cells stay exact in float32, and the
// entries near it.
struct EntryWindow {
  EntryRange range;
  std::int32_t base;
  float fx, fy;
};

// (px, py) must lie within kOutside cells of the map.
PYLOC_INLINE EntryWindow window_around(const LossMapsView& maps, const std::int16_t* first_rows,
                                       std::int64_t n, double px, double py, double sigma) {
  const double x = ::floor(px), y = ::floor(py), reach = kReachSigmas * sigma;
  const std::uint32_t base = (std::uint32_t(int(y)) << 16) | (std::uint32_t(int(x)) & 0xffffu);
  const int low = int(::floor(max_(py - reach, 0.0))), high = int(::floor(min_(py + reach, 32766.0)));
  return {rows_between(maps, first_rows, n, low, high), std::int32_t(base), float(px - x), float(py - y)};
}

// Starts the first loads of a window while others are worked on; the processor foresees the rest.
PYLOC_INLINE void prefetch(const LossMapsView& maps, const EntryRange& range) {
  __builtin_prefetch(maps.xy + 2 * range.begin);
  __builtin_prefetch(maps.gain + range.begin);
  __builtin_prefetch(maps.xy + 2 * (range.begin + kEntriesPerBlock));
  __builtin_prefetch(maps.gain + range.begin + kEntriesPerBlock);
}

// S_0, S_x, S_y of gnc.h over a window.
PYLOC_INLINE MapSums<double> map_sums(const LossMapsView& maps, const EntryWindow& w, double sigma) {
  const PackF exponent(float(gnc_exponent(sigma))), fx(w.fx), fy(w.fy);
  MapSums<PackF> s{PackF(0.0f), PackF(0.0f), PackF(0.0f)};
  for_entries(maps, w.range, PackI(w.base),
              [&](PackF x, PackF y, PackF gain) { add_entry(s, x - fx, y - fy, gain, exponent); });
  return {double(reduce_add(s.mass)), double(reduce_add(s.x)), double(reduce_add(s.y))};
}

inline MapSums<double> map_moments(const LossMapsView& maps, const EntryWindow& w, double sigma,
                                   MapMoments<double>& moments) {
  const PackF exponent(float(gnc_exponent(sigma))), fx(w.fx), fy(w.fy), zero(0.0f);
  MapSums<PackF> s{zero, zero, zero};
  MapMoments<PackF> m{zero, zero, zero};
  for_entries(maps, w.range, PackI(w.base), [&](PackF x, PackF y, PackF gain) {
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
