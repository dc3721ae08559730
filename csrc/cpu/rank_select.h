// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The value at a rank of a stream, by selection: a bounded list of candidates and no sort.
//
// Values above the running threshold join the list; when it is full it is cut back to the `rank` largest and
// the threshold becomes the smallest of them. The rank-th largest of the list is that of the stream.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

struct RankList {
  float* values;  // capacity rank_capacity(rank)
  std::int32_t count;
  float threshold;
};

// Room for as many newcomers as are kept, and for one vector store past the end.
PYLOC_INLINE std::int64_t rank_capacity(std::int64_t rank) { return 2 * rank + 1024 + PackF::kWidth; }

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

// Cuts the list to its `rank` largest; copies of the rank-th stand for equal ones.
inline void cut_back(RankList& list, std::int64_t rank, float peak) {
  const float bound = list.threshold > -3.402823466e38f ? list.threshold : -3.402823466e38f;
  const float value = rank_value(list.values, list.count, rank, bound, peak);
  std::int32_t kept = 0;
  for (std::int32_t i = 0; i < list.count; ++i) {
    const float v = list.values[i];
    list.values[kept] = v;
    kept += v > value;
  }
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

// Takes a run of at most 1024 finite values; `peak` is at least the largest value seen so far, and `largest`
// at least the largest of the run.
inline void rank_visit(RankList& list, const float* values, std::int64_t count, std::int64_t rank, float peak,
                       float largest) {
  constexpr int W = PackF::kWidth;
  if (!(largest > list.threshold)) return;
  std::int64_t i = 0;
  for (; i + W <= count; i += W) append_above(list, PackF::load(values + i), W);
  if (i < count)
    append_above(list, PackF::load_partial(values + i, int(count - i), -HUGE_VALF), int(count - i));
  if (list.count > 2 * rank) cut_back(list, rank, peak);
}

PYLOC_NAMESPACE_END
