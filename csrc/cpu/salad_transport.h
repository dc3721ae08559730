// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// SALAD's optimal transport of one item in the scaling domain, and its gradient.
//
// K_ij = exp(S_ij - max_j S_ij); the dustbin's row is constant, K = 1 whatever its score. With row scalings
// x = exp(u + max) and column scalings y = exp(v) an iteration is x_i = a_i / sum_j K_ij y_j and then
// y_j = 1 / sum_i K_ij x_i, both in one sweep over K. P_ij = x_i K_ij y_j.
// Every cluster's mass a_i is 1, the dustbin's n - m; a row without any finite score has x_i = 0.
#pragma once

#include "cpu/aggregate_items.h"
#include "cpu/row_softmax.h"
#include "cpu/simd_math.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kSweepRows = 4;  // rows of K that share the loads of y and of the column sums

inline bool all_below_infinity(const float* values, std::int64_t count) {
  bool all_are = true;
  for (std::int64_t i = 0; i < count; ++i) all_are &= values[i] < HUGE_VALF;
  return all_are;
}

// values[i] = exp(values[i] - largest) over [0, count), 0 up to the next multiple of kWidth.
inline void exponentials_below(float* values, std::int64_t count, float largest) {
  constexpr int W = PackF::kWidth;
  const PackF top(largest), log2e(1.44269504088896f);
  for (std::int64_t j = 0; j < count; j += W)
    exp2_nonpositive_((PackF::load(values + j) - top) * log2e).store(values + j);
  const std::int64_t end = round_up(count, W);
  for (std::int64_t j = count; j < end; ++j) values[j] = 0.0f;
}

// For every row: scaled = scale(row, sum_j K_j y_j), then columns_j += scaled K_j. `length`, a multiple of
// the width, lanes of every array are read.
template <class Scale>
PYLOC_INLINE void sweep_rows(const float* kernel, std::int64_t ld, int rows, std::int64_t first,
                             std::int64_t length, const float* y, float* columns, const Scale& scale) {
  constexpr int W = PackF::kWidth;
  PackF sum[kSweepRows], factor[kSweepRows];
  for (int r = 0; r < rows; ++r) sum[r] = PackF(0.0f);
  for (std::int64_t j = 0; j < length; j += W) {
    const PackF at = PackF::load(y + j);
    for (int r = 0; r < rows; ++r) sum[r] = fma_(PackF::load(kernel + r * ld + j), at, sum[r]);
  }
  for (int r = 0; r < rows; ++r) factor[r] = PackF(scale(first + r, reduce_add(sum[r])));
  for (std::int64_t j = 0; j < length; j += W) {
    PackF at = PackF::load(columns + j);
    for (int r = 0; r < rows; ++r) at = fma_(PackF::load(kernel + r * ld + j), factor[r], at);
    at.store(columns + j);
  }
}

template <class Scale>
inline void sweep(const float* kernel, std::int64_t ld, std::int64_t rows, std::int64_t length,
                  const float* y, float* columns, const Scale& scale) {
  std::int64_t i = 0;
  for (; i + kSweepRows <= rows; i += kSweepRows)
    sweep_rows(kernel + i * ld, ld, kSweepRows, i, length, y, columns, scale);
  for (; i < rows; ++i) sweep_rows(kernel + i * ld, ld, 1, i, length, y, columns, scale);
}

inline float sum_of(const float* values, std::int64_t length) {
  PackF sum(0.0f);
  for (std::int64_t j = 0; j < length; j += PackF::kWidth) sum = sum + PackF::load(values + j);
  return reduce_add(sum);
}

// One item and its working memory: K (m, ld), the maxima of its rows (m), the scalings x (T, m + 1) of every
// iteration, the dustbin last, and y (T + 1, ld), at the start and after every iteration, zero from n on.
struct SaladTransport {
  std::int64_t rows, columns, ld, iterations;  // m; n, those that count; T
  float *kernel, *peak, *x, *y;

  static std::int64_t x_floats(std::int64_t m) { return round_up(m + 1, 16); }
  static std::int64_t floats(std::int64_t m, std::int64_t ld, std::int64_t iterations) {
    return m * ld + round_up(m, 16) + iterations * x_floats(m) + (iterations + 1) * ld;
  }
  SaladTransport(std::int64_t m, std::int64_t n, std::int64_t ld_, std::int64_t iterations_, float* memory)
      : rows(m), columns(n), ld(ld_), iterations(iterations_), kernel(memory) {
    peak = kernel + rows * ld;
    x = peak + round_up(rows, 16);
    y = x + iterations * x_floats(rows);
  }
  float* row(std::int64_t i) const { return kernel + i * ld; }
  std::int64_t length() const { return round_up(columns, PackF::kWidth); }
  float* row_scaling(std::int64_t step) const { return x + step * x_floats(rows); }
  float* column_scaling(std::int64_t step) const { return y + step * ld; }  // 0: at the start

  // False when a score is NaN or +inf.
  bool form_kernel(int dtype, const void* scores, std::int64_t first, std::int64_t stride) const;
  void run() const;
  // P = x K y in place of K, zero from n to `end`.
  void form_assignment(std::int64_t end) const;
  void write_potentials(std::int64_t step, float dustbin, float* u, float* v, std::int64_t n_all) const;
};

// Scores of row i from element first + i * stride on.
inline bool SaladTransport::form_kernel(int dtype, const void* scores, std::int64_t first,
                                        std::int64_t stride) const {
  bool usable = true;
  for (std::int64_t i = 0; i < rows; ++i) {
    float* to = row(i);
    load_floats(dtype, scores, first + i * stride, columns, to);
    usable = all_below_infinity(to, columns) && usable;
    peak[i] = largest_value(to, columns);
    if (peak[i] == -HUGE_VALF) {
      std::memset(to, 0, sizeof(float) * std::size_t(length()));
    } else {
      exponentials_below(to, columns, peak[i]);
    }
  }
  return usable;
}

inline void SaladTransport::run() const {
  constexpr int W = PackF::kWidth;
  const std::int64_t n = length();
  for (std::int64_t j = 0; j < n; ++j) y[j] = j < columns ? 1.0f : 0.0f;
  for (std::int64_t step = 0; step < iterations; ++step) {
    const float* before = column_scaling(step);
    float *after = column_scaling(step + 1), *scaled = row_scaling(step);
    scaled[rows] = float(columns - rows) / sum_of(before, n);
    for (std::int64_t j = 0; j < n; j += W) PackF(scaled[rows]).store(after + j);
    sweep(kernel, ld, rows, n, before, after,
          [&](std::int64_t i, float sum) { return scaled[i] = sum > 0.0f ? 1.0f / sum : 0.0f; });
    for (std::int64_t j = 0; j < n; j += W) (PackF(1.0f) / PackF::load(after + j)).store(after + j);
    for (std::int64_t j = columns; j < n; ++j) after[j] = 0.0f;
  }
}

inline void SaladTransport::form_assignment(std::int64_t end) const {
  constexpr int W = PackF::kWidth;
  const float *given = row_scaling(iterations - 1), *taken = column_scaling(iterations);
  for (std::int64_t i = 0; i < rows; ++i) {
    float* weights = row(i);
    const PackF factor(given[i]);
    for (std::int64_t j = 0; j < length(); j += W)
      (factor * PackF::load(weights + j) * PackF::load(taken + j)).store(weights + j);
    for (std::int64_t j = length(); j < end; ++j) weights[j] = 0.0f;
  }
}

// ln of positive values, -inf for 0.
inline void logarithms(const float* values, std::int64_t count, float* out) {
  constexpr int W = PackD::kWidth;
  double lanes[W];
  for (std::int64_t i = 0; i < count; i += W) {
    const int here = count - i < W ? int(count - i) : W;
    for (int k = 0; k < W; ++k) lanes[k] = k < here ? double(values[i + k]) : 1.0;
    const PackD value = PackD::load(lanes);
    select(value > 0.0, log_(value), PackD(-HUGE_VAL)).store(lanes);
    for (int k = 0; k < here; ++k) out[i + k] = float(lanes[k]);
  }
}

// u (m + 1) and v (n_all) after an iteration; -inf for what takes no part.
inline void SaladTransport::write_potentials(std::int64_t step, float dustbin, float* u, float* v,
                                             std::int64_t n_all) const {
  logarithms(row_scaling(step), rows + 1, u);
  for (std::int64_t i = 0; i < rows; ++i) u[i] = u[i] == -HUGE_VALF ? u[i] : u[i] - peak[i];
  u[rows] -= dustbin;
  logarithms(column_scaling(step + 1), columns, v);
  for (std::int64_t j = columns; j < n_all; ++j) v[j] = -HUGE_VALF;
}

PYLOC_NAMESPACE_END
