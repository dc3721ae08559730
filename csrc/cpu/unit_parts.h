// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// A descriptor of parts: every part is brought to unit length, then all of them together. With P parts of
// some length the second step is a division by sqrt(P), a constant, so that its gradient is the factor alone:
//   dV_k = (d_k - e_k <e_k, d_k>) / (sqrt(P) |V_k|),   e_k = V_k / |V_k|.
// Lengths up to kNoLength count as that length (as torch's normalize has it) and pass no gradient.
#pragma once

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

constexpr float kNoLength = 1e-12f;

// The square of the length of a part divided by max(length, kNoLength); infinity and NaN stay what they are.
PYLOC_INLINE float unit_square(float length) {
  if (length > kNoLength) return isfinite_(length) ? 1.0f : length;
  return (length / kNoLength) * (length / kNoLength);
}
PYLOC_INLINE float inverse_length(float length) { return 1.0f / (length > kNoLength ? length : kNoLength); }

// <a, b>, in lanes.
inline float inner_product(const float* a, const float* b, std::int64_t count) {
  constexpr int W = PackF::kWidth;
  PackF sum(0.0f);
  std::int64_t i = 0;
  for (; i + W <= count; i += W) sum = fma_(PackF::load(a + i), PackF::load(b + i), sum);
  if (i < count) {
    const int rest = int(count - i);
    sum = fma_(PackF::load_partial(a + i, rest), PackF::load_partial(b + i, rest), sum);
  }
  return reduce_add(sum);
}

// sums[k] = sum over l of a[l, k] b[l, k] of two (depth, parts) arrays.
inline void column_products(const float* a, const float* b, std::int64_t depth, std::int64_t parts,
                            float* sums) {
  for (std::int64_t k = 0; k < parts; ++k) sums[k] = 0.0f;
  for (std::int64_t l = 0; l < depth; ++l)
    for (std::int64_t k = 0; k < parts; ++k) sums[k] += a[l * parts + k] * b[l * parts + k];
}

// Lengths of vectors whose squares are given, in place, and the sum of their unit squares, which is not
// finite when one of the lengths is not.
inline float lengths_of(float* squares, std::int64_t parts) {
  float total = 0.0f;
  for (std::int64_t k = 0; k < parts; ++k) {
    squares[k] = std::sqrt(squares[k]);
    total += unit_square(squares[k]);
  }
  return total;
}

PYLOC_NAMESPACE_END
