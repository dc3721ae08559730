// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Bilinear resizing of a correlation map in two steps, columns then rows, each one pass over memory.
// Half-pixel centres: target x takes the source at (x + 1/2) * W_source / W_target - 1/2, clamped to the
// outermost centres (what torch calls align_corners=False).
#pragma once

#include <cstdint>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

struct Tap {
  std::int64_t low, high;
  float weight;  // of `high`
};

inline Tap interpolation_tap(std::int64_t target, std::int64_t target_size, std::int64_t source_size) {
  double at = (double(target) + 0.5) * double(source_size) / double(target_size) - 0.5;
  if (at < 0.0) at = 0.0;
  if (at > double(source_size - 1)) at = double(source_size - 1);
  const auto low = std::int64_t(at);
  return {low, low + 1 < source_size ? low + 1 : low, float(at - double(low))};
}

// Taps of every target column, padded to whole vectors.
struct ColumnTaps {
  std::int32_t* low;
  std::int32_t* high;
  float* weight;
};

inline void fill_column_taps(const ColumnTaps& taps, std::int64_t target_size, std::int64_t source_size,
                             std::int64_t padded) {
  for (std::int64_t x = 0; x < padded; ++x) {
    const Tap tap = interpolation_tap(x < target_size ? x : target_size - 1, target_size, source_size);
    taps.low[x] = std::int32_t(tap.low);
    taps.high[x] = std::int32_t(tap.high);
    taps.weight[x] = tap.weight;
  }
}

// One source row to `padded` target columns (whole vectors). `enlarging`: the source row is not longer than
// the target's, so that a vector of targets takes its taps from two neighbouring vectors of the source, which
// a permutation reads much faster than a gather; up to two vectors past the row's end are then read, not
// used.
inline void resize_columns(const float* source, const ColumnTaps& taps, std::int64_t padded, bool enlarging,
                           float* out) {
#if defined(__AVX512F__)
  if (enlarging) {
    for (std::int64_t x = 0; x < padded; x += 16) {
      const float* base = source + taps.low[x];
      const __m512i origin = _mm512_set1_epi32(taps.low[x]);
      const __m512 near = _mm512_loadu_ps(base), far = _mm512_loadu_ps(base + 16);
      const __m512i low_index = _mm512_sub_epi32(_mm512_loadu_si512(taps.low + x), origin);
      const __m512i high_index = _mm512_sub_epi32(_mm512_loadu_si512(taps.high + x), origin);
      const PackF low((PackF::Raw)_mm512_permutex2var_ps(near, low_index, far));
      const PackF high((PackF::Raw)_mm512_permutex2var_ps(near, high_index, far));
      fma_(PackF::load(taps.weight + x), high - low, low).store(out + x);
    }
    return;
  }
#endif
  (void)enlarging;
  for (std::int64_t x = 0; x < padded; x += PackF::kWidth) {
    const PackF low = gather(source, PackI::load(taps.low + x));
    const PackF high = gather(source, PackI::load(taps.high + x));
    fma_(PackF::load(taps.weight + x), high - low, low).store(out + x);
  }
}

// Adds the rows `low` and `high` mixed by `weight` to `count` values.
inline void add_mixed_rows(const float* low, const float* high, float weight, std::int64_t count,
                           float* out) {
  for (std::int64_t x = 0; x < count; ++x) out[x] += low[x] + weight * (high[x] - low[x]);
}

PYLOC_NAMESPACE_END
