// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Inner products of the rows of two matrices, C = A B^T, both with their long dimension in memory order: what
// tile_product.h would have to transpose first. Every accumulator is a vector along the rows; a block of as
// many accumulators as there are lanes is added up together.
//
//   row_products(FloatRows{}, a, a_rows, a_ld, b, b_rows, b_ld, count, out, a_step, b_step);
//   out[i * a_step + j * b_step] = <a_i, b_j>, float32 sums
//
// The rows of A, a few (kDotBlock), stay in the first-level cache; those of B stream by.
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
constexpr std::int64_t kDotBlock = 8;                  // rows of A at a time

struct FloatRows {
  using Element = float;
  static constexpr int kStep = PackF::kWidth;
  static PYLOC_INLINE PackF load(const float* p) { return PackF(*reinterpret_cast<const PackF::Raw*>(p)); }
};

// sums[r * C + c] = sum over [0, count) of a_r b_c, in lanes.
template <int R, int C>
PYLOC_INLINE void dot_block(FloatRows, const float* a, std::int64_t a_ld, const float* b, std::int64_t b_ld,
                            std::int64_t count, PackF* sums) {
  PackF sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = PackF(0.0f);
  for (std::int64_t k = 0; k < count; k += FloatRows::kStep) {
    PackF column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) column[c] = FloatRows::load(b + c * b_ld + k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const PackF row = FloatRows::load(a + r * a_ld + k);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = fma_(row, column[c], sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r * C + c] = sum[r][c];
}

#if defined(__AVX512F__)
// 32 at a time by AVX512_BF16, for processors that have it (runtime::has_avx512_bf16).
struct Bf16Rows {
  using Element = std::uint16_t;
  static constexpr int kStep = 32;
};

template <int R, int C>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"), noinline)) static void dot_block_bf16(
    const std::uint16_t* a, std::int64_t a_ld, const std::uint16_t* b, std::int64_t b_ld, std::int64_t count,
    float* sums) {
  __m512 sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum[r][c] = _mm512_setzero_ps();
  for (std::int64_t k = 0; k < count; k += Bf16Rows::kStep) {
    __m512bh column[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) column[c] = (__m512bh)_mm512_load_si512(b + c * b_ld + k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512bh row = (__m512bh)_mm512_load_si512(a + r * a_ld + k);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], row, column[c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) _mm512_storeu_ps(sums + (r * C + c) * 16, sum[r][c]);
}
template <int R, int C>
inline void dot_block(Bf16Rows, const std::uint16_t* a, std::int64_t a_ld, const std::uint16_t* b,
                      std::int64_t b_ld, std::int64_t count, PackF* sums) {
  dot_block_bf16<R, C>(a, a_ld, b, b_ld, count, reinterpret_cast<float*>(sums));
}
#endif

// A block of results. One that is not full is computed pair by pair, the same additions in the same order.
template <class Kind>
static inline __attribute__((noinline)) void dot_rows(const typename Kind::Element* a, std::int64_t a_ld,
                                                      const typename Kind::Element* b, std::int64_t b_ld,
                                                      std::int64_t count, int rows, int columns, bool add,
                                                      float* out, std::int64_t a_step, std::int64_t b_step) {
  constexpr int W = PackF::kWidth;
  alignas(64) float found[W];
  if (rows == kDotRows && columns == kDotColumns) {
    PackF sums[W];
    dot_block<kDotRows, kDotColumns>(Kind{}, a, a_ld, b, b_ld, count, sums);
    reduce_packs(sums).store(found);
    if (b_step == 1 && !add) {
      for (int r = 0; r < kDotRows; ++r)
        std::memcpy(out + r * a_step, found + r * kDotColumns, sizeof(float) * kDotColumns);
      return;
    }
  } else {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        PackF sum;
        dot_block<1, 1>(Kind{}, a + r * a_ld, 0, b + c * b_ld, 0, count, &sum);
        found[r * kDotColumns + c] = reduce_add(sum);
      }
  }
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      float& to = out[r * a_step + c * b_step];
      to = add ? to + found[r * kDotColumns + c] : found[r * kDotColumns + c];
    }
}

template <class Kind>
inline void row_products(Kind, const typename Kind::Element* a, std::int64_t a_rows, std::int64_t a_ld,
                         const typename Kind::Element* b, std::int64_t b_rows, std::int64_t b_ld,
                         std::int64_t count, float* out, std::int64_t a_step, std::int64_t b_step) {
  for (std::int64_t k = 0; k < count; k += kDotDepth) {
    const std::int64_t depth = round_up(count - k < kDotDepth ? count - k : kDotDepth, Kind::kStep);
    for (std::int64_t j = 0; j < b_rows; j += kDotColumns)
      for (std::int64_t i = 0; i < a_rows; i += kDotRows)
        dot_rows<Kind>(a + i * a_ld + k, a_ld, b + j * b_ld + k, b_ld, depth,
                       int(a_rows - i < kDotRows ? a_rows - i : kDotRows),
                       int(b_rows - j < kDotColumns ? b_rows - j : kDotColumns), k > 0,
                       out + i * a_step + j * b_step, a_step, b_step);
  }
}

PYLOC_NAMESPACE_END
