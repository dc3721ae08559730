// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The value at a rank of a stream, by selection: a bounded list of candidates and no sort.
//
// Values above the running threshold join the list; when it is full it is cut back to about its `rank`
// largest and the threshold rises to the bound of the cut, which at least `rank` values reach: what lies at
// or below it cannot be above the rank-th. So the rank-th largest of the list is that of the stream.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

struct RankList {
  float* values;  // capacity rank_capacity(rank)
  std::int32_t count;
  float threshold;
};

// The list is cut back when it holds more than rank_limit; a run and a vector's store must fit on top.
constexpr std::int64_t kRankRun = 1024;
PYLOC_INLINE std::int64_t rank_limit(std::int64_t rank) { return rank + (rank > 1024 ? rank : 1024); }
PYLOC_INLINE std::int64_t rank_capacity(std::int64_t rank) {
  return rank_limit(rank) + kRankRun + PackF::kWidth;
}

// Integers in the order of the floats, and back.
PYLOC_INLINE std::int32_t order_key(float v) {
  std::int32_t b;
  std::memcpy(&b, &v, 4);
  return b < 0 ? b ^ 0x7fffffff : b;
}
PYLOC_INLINE float value_of_key(std::int32_t key) {
  const std::int32_t b = key < 0 ? key ^ 0x7fffffff : key;
  float v;
  std::memcpy(&v, &b, 4);
  return v;
}

inline std::int64_t count_at_least(const float* values, std::int64_t count, float bound) {
  constexpr int W = PackF::kWidth;
  PackI hits(0);
  std::int64_t i = 0;
  // A true lane is -1.
  for (; i + W <= count; i += W) hits = hits - PackI((PackF::load(values + i) >= bound).raw);
  std::int64_t total = 0;
  for (int l = 0; l < W; ++l) total += hits[l];
  for (; i < count; ++i) total += values[i] >= bound;
  return total;
}

// The rank-th largest (1 is the largest) of count >= rank finite values: bisection on the order keys between
// two bounds that hold it, each step one vector pass.
inline float rank_value(const float* values, std::int64_t count, std::int64_t rank, float low, float high) {
  std::int64_t a = order_key(low), b = order_key(high);  // the answer's key lies in [a, b]
  while (a < b) {
    const std::int64_t middle = a + (b - a + 1) / 2;
    if (count_at_least(values, count, value_of_key(std::int32_t(middle))) >= rank)
      a = middle;
    else
      b = middle - 1;
  }
  return value_of_key(std::int32_t(a));
}

// Keeps the values of at least `bound`, in order; returns how many.
inline std::int32_t keep_at_least(float* values, std::int32_t count, float bound) {
  std::int32_t kept = 0, i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const __m512 v = _mm512_loadu_ps(values + i);
    const __mmask16 keep = _mm512_cmp_ps_mask(v, _mm512_set1_ps(bound), _CMP_GE_OQ);
    _mm512_storeu_ps(values + kept, _mm512_maskz_compress_ps(keep, v));  // never past what is read
    kept += __builtin_popcount(keep);
  }
#endif
  for (; i < count; ++i) {
    const float v = values[i];
    values[kept] = v;
    kept += v >= bound;
  }
  return kept;
}

// Cuts the list to little more than its `rank` largest, by halving the interval of values. Where that finds
// no bound, as among many equal values, the rank-th value itself is the bound and copies stand for equal
// ones.
inline void cut_back(RankList& list, std::int64_t rank, float peak) {
  float low = list.threshold, high = peak;
  if (!(low > -HUGE_VALF)) {
    low = list.values[0];
    for (std::int32_t i = 1; i < list.count; ++i) low = list.values[i] < low ? list.values[i] : low;
  }
  for (int step = 0; step < 16; ++step) {
    const float middle = low + 0.5f * (high - low);
    const std::int64_t above = count_at_least(list.values, list.count, middle);
    (above >= rank ? low : high) = middle;
    if (above < rank || above > rank + rank / 8 + 16) continue;
    list.count = keep_at_least(list.values, list.count, low);
    list.threshold = low;
    return;
  }
  const float value = rank_value(list.values, list.count, rank, low, high);
  std::int32_t kept = keep_at_least(list.values, list.count, value_of_key(order_key(value) + 1));
  for (; kept < rank; ++kept) list.values[kept] = value;
  list.count = kept;
  list.threshold = value;
}

PYLOC_INLINE void append_above(RankList& list, PackF v, int lanes) {
#if defined(__AVX512F__)
  const __mmask16 live = __mmask16((1u << lanes) - 1u);
  const __mmask16 above =
      _mm512_mask_cmp_ps_mask(live, (__m512)v.raw, _mm512_set1_ps(list.threshold), _CMP_GT_OQ);
  if (!above) return;
  _mm512_storeu_ps(list.values + list.count, _mm512_maskz_compress_ps(above, (__m512)v.raw));
  list.count += __builtin_popcount(above);
#else
  if (!any(v > list.threshold)) return;
  for (int i = 0; i < lanes; ++i)
    if (v[i] > list.threshold) list.values[list.count++] = v[i];
#endif
}

// Takes a run of at most kRankRun finite values; `peak` is at least the largest value seen so far, and
// `largest` at least the largest of the run.
inline void rank_visit(RankList& list, const float* values, std::int64_t count, std::int64_t rank, float peak,
                       float largest) {
  constexpr int W = PackF::kWidth;
  if (!(largest > list.threshold)) return;
  std::int64_t i = 0;
  for (; i + W <= count; i += W) append_above(list, PackF::load(values + i), W);
  if (i < count)
    append_above(list, PackF::load_partial(values + i, int(count - i), -HUGE_VALF), int(count - i));
  if (list.count > rank_limit(rank)) cut_back(list, rank, peak);
}

// The rank-th largest value of the stream.
inline float rank_result(const RankList& list, std::int64_t rank, float peak) {
  const float low = list.threshold > -HUGE_VALF ? list.threshold : -3.402823466e38f;
  return rank_value(list.values, list.count, rank, low, peak);
}

PYLOC_NAMESPACE_END
