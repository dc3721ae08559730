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

// One source row to `padded` target columns (whole vectors).
inline void resize_columns(const float* source, const ColumnTaps& taps, std::int64_t padded, float* out) {
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
