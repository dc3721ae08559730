// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The running softmax of one correlation map: what remains of a map when its cells have streamed by.
//
// Fed runs of cells in order (visit), a row holds the largest correlation, the first cell that has it, and
//   sum    = sum over cells of 2^((c - peak) * scale),      scale = log2(e) / T
//   moment = sum over cells of 2^((c - peak) * scale) * (c - peak) * scale      (only on request)
// from which ln C at the peak = -ln(sum) and the entropy = ln(sum) - ln 2 * moment / sum, in nats.
// A run whose cells all lie 2^-64 below the peak adds nothing that float64 could hold beside it and is
// skipped. Runs must not depend on the number of threads: then neither do the bits.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

struct SoftmaxRow {
  float peak;
  std::int64_t cell;
  double sum;
  double moment;
};

PYLOC_INLINE SoftmaxRow empty_softmax_row() { return {-HUGE_VALF, 0, 0.0, 0.0}; }

// 2^x for x <= 0: x = n + f with |f| <= 1/2. The polynomial is the minimax one of degree 5 for 2^f with value
// 1 at 0; relative error below 1.8e-7, rounding included. exp2_nonpositive_(0) is exactly 1.
PYLOC_INLINE PackF exp2_nonpositive_(PackF x) {
#if defined(__AVX512F__)
  const PackF n(
      (PackF::Raw)_mm512_roundscale_ps((__m512)x.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  x = max_(x, PackF(-126.0f));
  const PackF n = floor_(x + 0.5f);
#endif
  const PackF f = x - n;
  PackF p(1.32647276e-3f);
  p = fma_(p, f, PackF(9.67151265e-3f));
  p = fma_(p, f, PackF(5.55073374e-2f));
  p = fma_(p, f, PackF(2.40222421e-1f));
  p = fma_(p, f, PackF(6.93146978e-1f));
  p = fma_(p, f, PackF(1.0f));
#if defined(__AVX512F__)
  return PackF((PackF::Raw)_mm512_scalef_ps((__m512)p.raw, (__m512)n.raw));
#else
  return p * from_bits(shift_left(to_int(n) + 127, 23));
#endif
}

inline float largest_value(const float* values, std::int64_t count) {
  constexpr int W = PackF::kWidth;
  PackF a(-HUGE_VALF), b = a, c = a, d = a;
  std::int64_t i = 0;
  for (; i + 4 * W <= count; i += 4 * W) {
    a = max_(PackF::load(values + i), a);
    b = max_(PackF::load(values + i + W), b);
    c = max_(PackF::load(values + i + 2 * W), c);
    d = max_(PackF::load(values + i + 3 * W), d);
  }
  for (; i + W <= count; i += W) a = max_(PackF::load(values + i), a);
  if (i < count) b = max_(PackF::load_partial(values + i, int(count - i), -HUGE_VALF), b);
  return reduce_max(max_(max_(a, b), max_(c, d)));
}

// Where `value` first stands; it does stand somewhere.
inline std::int64_t first_position(const float* values, std::int64_t count, float value) {
  constexpr int W = PackF::kWidth;
  std::int64_t i = 0;
  while (i + W <= count && !any(PackF::load(values + i) == value)) i += W;
  while (i + 1 < count && values[i] != value) ++i;
  return i;
}

template <bool kMoment>
inline void sum_exponentials(SoftmaxRow& row, const float* values, std::int64_t count, float scale) {
  constexpr int W = PackF::kWidth;
  PackF sum[2] = {PackF(0.0f), PackF(0.0f)}, moment[2] = {PackF(0.0f), PackF(0.0f)};
  std::int64_t i = 0;
  for (; i + 2 * W <= count; i += 2 * W)
    for (int j = 0; j < 2; ++j) {
      const PackF x = (PackF::load(values + i + j * W) - row.peak) * scale;
      const PackF e = exp2_nonpositive_(x);
      sum[j] = sum[j] + e;
      if (kMoment) moment[j] = fma_(e, max_(x, PackF(-200.0f)), moment[j]);
    }
  for (; i < count; i += W) {
    const int lanes = count - i < W ? int(count - i) : W;
    const PackF x = (PackF::load_partial(values + i, lanes, row.peak) - row.peak) * scale;
    const PackF e = select(PackF::iota() < float(lanes), exp2_nonpositive_(x), PackF(0.0f));
    sum[0] = sum[0] + e;
    if (kMoment) moment[0] = fma_(e, max_(x, PackF(-200.0f)), moment[0]);
  }
  row.sum += double(reduce_add(sum[0] + sum[1]));
  if (kMoment) row.moment += double(reduce_add(moment[0] + moment[1]));
}

// The sums so far, seen from a higher peak.
inline void raise_peak(SoftmaxRow& row, float peak, float scale) {
  if (row.sum > 0.0) {
    const double x = (double(row.peak) - double(peak)) * double(scale);
    const double factor = std::exp2(x);
    row.moment = factor > 0.0 ? factor * (row.moment + row.sum * x) : 0.0;
    row.sum *= factor;
  }
  row.peak = peak;
}

// Takes the cells first_cell ... first_cell + count - 1 into account; returns the largest value of the run.
template <bool kMoment>
inline float visit_cells(SoftmaxRow& row, const float* values, std::int64_t count, std::int64_t first_cell,
                         float scale) {
  const float largest = largest_value(values, count);
  if (largest > row.peak) {
    row.cell = first_cell + first_position(values, count, largest);
    raise_peak(row, largest, scale);
  } else if ((row.peak - largest) * scale > 64.0f) {
    return largest;
  }
  sum_exponentials<kMoment>(row, values, count, scale);
  return largest;
}

PYLOC_NAMESPACE_END
