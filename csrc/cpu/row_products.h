// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Inner products of the rows of two matrices, C = A B^T, both with their long dimension in memory order: what
// tile_product.h would have to transpose first. Every accumulator is a vector along the rows; a block of as
// many accumulators as there are lanes is transposed in registers and added up.
//
//   row_products(a, a_rows, a_ld, b, b_rows, b_ld, count, out, out_ld);   out[i * out_ld + j] = <a_i, b_j>
//
// Contract: leading dimensions are multiples of kRowUnit elements, rows are 64-byte aligned and hold zeros
// from `count` to the next multiple of kRowUnit. An entry depends on its two rows alone.
#pragma once

#include <cstdint>

#include "cpu/tile_pack.h"
#include "cpu/transpose.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kRowUnit = 32;                           // floats or bfloat16 of a row come in these
constexpr int kDotRows = PackF::kWidth >= 16 ? 4 : 2;  // rows of A in a block of accumulators
constexpr int kDotColumns = PackF::kWidth / kDotRows;  // rows of B
constexpr std::int64_t kDotDepth = 1024;               // elements of a row at a time: first-level cache
constexpr std::int64_t kDotBlock = 8;                  // rows of A that stay there

// What one lane-wise multiply and add takes: W floats, or 2 W bfloat16.
struct FloatRows {
  using Element = float;
  static constexpr int kStep = PackF::kWidth;
  using Operand = PackF;
  static PYLOC_INLINE Operand load(const float* p) { return PackF(*reinterpret_cast<const PackF::Raw*>(p)); }
  static PYLOC_INLINE PackF add(PackF sum, Operand a, Operand b) { return fma_(a, b, sum); }
};

// sums[r * kDotColumns + c] = sum over [0, count) of a_r b_c, in W lanes.
template <class Kind>
PYLOC_INLINE void dot_block(const typename Kind::Element* a, std::int64_t a_ld,
                            const typename Kind::Element* b, std::int64_t b_ld, std::int64_t count,
                            PackF* sums) {
  PackF sum[kDotRows][kDotColumns];
#pragma GCC unroll 4
  for (int r = 0; r < kDotRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kDotColumns; ++c) sum[r][c] = PackF(0.0f);
  for (std::int64_t k = 0; k < count; k += Kind::kStep) {
    typename Kind::Operand column[kDotColumns];
#pragma GCC unroll 8
    for (int c = 0; c < kDotColumns; ++c) column[c] = Kind::load(b + c * b_ld + k);
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) {
      const typename Kind::Operand row = Kind::load(a + r * a_ld + k);
#pragma GCC unroll 8
      for (int c = 0; c < kDotColumns; ++c) sum[r][c] = Kind::add(sum[r][c], row, column[c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kDotRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kDotColumns; ++c) sums[r * kDotColumns + c] = sum[r][c];
}

// A block of results; rows beyond the last are read from the last one and not written.
template <class Kind>
static inline __attribute__((noinline)) void dot_rows(const typename Kind::Element* a, std::int64_t a_ld,
                                                      const typename Kind::Element* b, std::int64_t b_ld,
                                                      std::int64_t count, int rows, int columns, bool add,
                                                      float* out, std::int64_t out_ld) {
  constexpr int W = PackF::kWidth;
  alignas(64) float found[W];
  if (rows == kDotRows && columns == kDotColumns) {
    PackF sums[W];
    dot_block<Kind>(a, a_ld, b, b_ld, count, sums);
    transpose_groups<W>(sums);
    for (int step = W / 2; step > 0; step /= 2)
      for (int i = 0; i < step; ++i) sums[i] = sums[i] + sums[i + step];
    sums[0].store(found);
  } else {  // the same additions in the same order, one pair of rows at a time
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        PackF sum(0.0f);
        for (std::int64_t k = 0; k < count; k += Kind::kStep)
          sum = Kind::add(sum, Kind::load(a + r * a_ld + k), Kind::load(b + c * b_ld + k));
        found[r * kDotColumns + c] = reduce_add(sum);
      }
  }
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      float& to = out[r * out_ld + c];
      to = add ? to + found[r * kDotColumns + c] : found[r * kDotColumns + c];
    }
}

template <class Kind>
inline void row_products_of(const typename Kind::Element* a, std::int64_t a_rows, std::int64_t a_ld,
                            const typename Kind::Element* b, std::int64_t b_rows, std::int64_t b_ld,
                            std::int64_t count, float* out, std::int64_t out_ld) {
  for (std::int64_t k = 0; k < count; k += kDotDepth) {
    const std::int64_t depth = round_up(count - k < kDotDepth ? count - k : kDotDepth, Kind::kStep);
    for (std::int64_t block = 0; block < a_rows; block += kDotBlock) {
      const std::int64_t end = block + kDotBlock < a_rows ? block + kDotBlock : a_rows;
      for (std::int64_t j = 0; j < b_rows; j += kDotColumns)
        for (std::int64_t i = block; i < end; i += kDotRows)
          dot_rows<Kind>(a + i * a_ld + k, a_ld, b + j * b_ld + k, b_ld, depth,
                         int(end - i < kDotRows ? end - i : kDotRows),
                         int(b_rows - j < kDotColumns ? b_rows - j : kDotColumns), k > 0,
                         out + i * out_ld + j, out_ld);
    }
  }
}

PYLOC_NAMESPACE_END
