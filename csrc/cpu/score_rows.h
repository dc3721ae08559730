// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Rows of one item's scores as float32 packs, with dustbins appended and padded with -inf.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/simd.h"
#include "cpu/store_rows.h"

PYLOC_NAMESPACE_BEGIN

constexpr float kNothing = -HUGE_VALF;  // the logarithm of nothing
constexpr int kSweepColumns = 32;       // padded rows are multiples: two packs of the widest instruction set

// A row where it lies, in whole packs, and its end, with the dustbin and the padding.
struct ScoreRow {
  const float* from;
  std::int64_t whole;
  alignas(64) float tail[3 * kSweepColumns];

  PYLOC_INLINE PackF at(std::int64_t c) const {
    return PackF::load(c < whole ? from + c : tail + (c - whole));
  }
  bool has_refused(std::int64_t ld) const {  // NaN or +infinity
    PackMask<float> bad = PackF(0.0f) > 0.0f;
    for (std::int64_t c = 0; c < ld; c += PackF::kWidth) bad = mask_or(bad, mask_not(at(c) < HUGE_VALF));
    return any(bad);
  }
};

struct ScoreRows {
  const void* scores;  // the first row; float32, float16 or bfloat16
  int dtype;
  std::int64_t row_stride;     // in elements
  std::int64_t rows, columns;  // that count
  int dustbin_sides;           // 0, 1 (row) or 3 (row and column)
  float dustbin;

  float at(std::int64_t i, std::int64_t j) const {
    if (i == rows || j == columns) return dustbin;
    const std::int64_t place = i * row_stride + j;
    const auto* half = static_cast<const std::uint16_t*>(scores);
    if (dtype == kFloat32) return static_cast<const float*>(scores)[place];
    return dtype == kFloat16 ? LoadFloat16::load(half + place) : LoadBf16::load(half + place);
  }

  // Row i into ld floats, the padding -inf.
  void read(std::int64_t i, std::int64_t ld, float* out) const {
    std::int64_t held = columns;
    if (i == rows) {
      for (std::int64_t j = 0; j < columns; ++j) out[j] = dustbin;
    } else {
      const std::int64_t first = i * row_stride;
      const auto* half = static_cast<const std::uint16_t*>(scores) + first;
      if (dtype == kFloat32) {
        std::memcpy(out, static_cast<const float*>(scores) + first, sizeof(float) * std::size_t(columns));
      } else if (dtype == kFloat16) {
        for (std::int64_t j = 0; j < columns; ++j) out[j] = LoadFloat16::load(half + j);
      } else {
        for (std::int64_t j = 0; j < columns; ++j) out[j] = LoadBf16::load(half + j);
      }
    }
    if (dustbin_sides >> 1) out[held++] = dustbin;
    for (; held < ld; ++held) out[held] = kNothing;
  }

  // `scratch` (ld floats) holds the row where it cannot be read in place.
  void view(std::int64_t i, std::int64_t ld, float* scratch, ScoreRow& row) const {
    if (dtype != kFloat32 || i == rows || ld - columns > 2 * kSweepColumns) {
      read(i, ld, scratch);
      row.from = scratch;
      row.whole = ld;
      return;
    }
    row.from = static_cast<const float*>(scores) + i * row_stride;
    row.whole = columns / PackF::kWidth * PackF::kWidth;
    std::int64_t held = columns - row.whole;
    std::memcpy(row.tail, row.from + row.whole, sizeof(float) * std::size_t(held));
    if (dustbin_sides >> 1) row.tail[held++] = dustbin;
    for (; row.whole + held < ld; ++held) row.tail[held] = kNothing;
  }
};

PYLOC_NAMESPACE_END
