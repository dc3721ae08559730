// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One row of the NRE loss: the bilinear taps of its target, and the running softmax of its correlations.
#pragma once

#include "cpu/row_softmax.h"
#include "cpu/simd_math.h"

PYLOC_NAMESPACE_BEGIN

// Cells [y0, y0 + 1] x [x0, x0 + 1] around a target. On the last row or column the pair below it, with the
// whole weight on the upper cell: the derivative is then the one from inside. A map of one column (row) has
// the same cell twice.
struct NreTarget {
  std::int64_t cell[4];  // (y0, x0), (y0, x1), (y1, x0), (y1, x1)
  double fx, fy;
  bool inside;

  double weight(int k) const { return (k & 1 ? fx : 1.0 - fx) * (k & 2 ? fy : 1.0 - fy); }
};

inline NreTarget nre_target(const double* xy, std::int64_t height, std::int64_t width) {
  const double x = xy[0], y = xy[1];
  // A comparison with NaN is false.
  if (!(x >= 0.0 && x <= double(width - 1) && y >= 0.0 && y <= double(height - 1)))
    return {{0, 0, 0, 0}, 0.0, 0.0, false};
  const auto low = [](double at, std::int64_t size) {
    const auto i = std::int64_t(at);
    return i < size - 1 || i == 0 ? i : i - 1;
  };
  const std::int64_t x0 = low(x, width), y0 = low(y, height);
  const std::int64_t right = width > 1 ? 1 : 0, down = height > 1 ? width : 0, at = y0 * width + x0;
  return {{at, at + right, at + down, at + down + right}, x - double(x0), y - double(y0), true};
}

template <class T>
struct NreRow {
  T peak;
  double sum;
  T near[4];  // <h, F> at the target's cells
};

PYLOC_INLINE PackF nre_exp(PackF c, float peak, float scale) { return exp2_nonpositive_((c - peak) * scale); }
PYLOC_INLINE PackD nre_exp(PackD c, double peak, double scale) { return exp_((c - peak) * scale); }
// What the functions above multiply with: log2(e) / T or 1 / T.
template <class T>
T nre_scale(double temperature) {
  return T((sizeof(T) == 4 ? 1.4426950408889634 : 1.0) / temperature);
}

template <class T>
T largest_of(const T* values, std::int64_t count) {
  if constexpr (sizeof(T) == 4) return largest_value(values, count);
  T largest = values[0];
  for (std::int64_t i = 1; i < count; ++i) largest = values[i] > largest ? values[i] : largest;
  return largest;
}

// values <- exp((values - peak) / T), which it also sums. Values past `count` stay.
template <class T>
double exponentials(T* values, std::int64_t count, T peak, T scale) {
  constexpr int W = Pack<T>::kWidth;
  Pack<T> sum[2] = {Pack<T>(T(0)), Pack<T>(T(0))};
  std::int64_t i = 0;
  for (; i + 2 * W <= count; i += 2 * W)
    for (int j = 0; j < 2; ++j) {
      const Pack<T> e = nre_exp(Pack<T>::load(values + i + j * W), peak, scale);
      sum[j] += e;
      e.store(values + i + j * W);
    }
  for (; i < count; i += W) {
    const int lanes = count - i < W ? int(count - i) : W;
    Pack<T> e = nre_exp(Pack<T>::load_partial(values + i, lanes, peak), peak, scale);
    e = select(Pack<T>::iota() < T(lanes), e, Pack<T>(T(0)));
    sum[0] += e;
    e.store_partial(values + i, lanes);
  }
  return double(reduce_add(sum[0] + sum[1]));
}

// Takes a run of correlations into account, which become exp((c - peak) / T). Returns what sums over earlier
// runs must be multiplied with, since they were taken from a lower peak.
template <class T>
T absorb(NreRow<T>& row, T* values, std::int64_t count, T scale, double temperature) {
  const T largest = largest_of(values, count);
  T factor(1);
  if (largest > row.peak) {
    const double drop = std::exp((double(row.peak) - double(largest)) / temperature);
    row.sum *= drop;
    row.peak = largest;
    factor = T(drop);
  }
  row.sum += exponentials(values, count, row.peak, scale);
  return factor;
}

// values <- C = exp((values - peak) / T - log_sum) with the statistics of the forward pass.
template <class T>
void probabilities(T* values, std::int64_t count, double peak, double log_sum, T scale) {
  exponentials(values, count, T(peak), scale);
  const Pack<T> inverse(T(std::exp(-log_sum)));
  constexpr int W = Pack<T>::kWidth;
  std::int64_t i = 0;
  for (; i + W <= count; i += W) (Pack<T>::load(values + i) * inverse).store(values + i);
  for (; i < count; ++i) values[i] *= inverse[0];
}

PYLOC_NAMESPACE_END
