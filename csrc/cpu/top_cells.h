// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The largest values of a stream, with the cells they come from, in one pass.
//
// Cells are offered in ascending order. A value that cannot be among the `limit` largest is dropped by one
// comparison with a threshold; the others are appended to a buffer of about twice the limit, and when
// it is full, the threshold rises to a value that at least `limit` of them exceed and the rest is dropped.
// Equal values: the earlier cell stays. Entries always lie in ascending order of cells, so what remains
// needs no sorting. NaN is never kept.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

// Integers in the order of the floats, both ways; no NaN.
PYLOC_INLINE std::int32_t ordered_from_float(float v) {
  std::int32_t i;
  std::memcpy(&i, &v, 4);
  return i ^ ((i >> 31) & 0x7fffffff);
}
PYLOC_INLINE float float_from_ordered(std::int32_t i) {
  i ^= (i >> 31) & 0x7fffffff;
  float v;
  std::memcpy(&v, &i, 4);
  return v;
}

class TopCells {
 public:
  static constexpr int kLanes = PackF::kWidth;

  TopCells() = default;
  ~TopCells() {
    std::free(value_);
    std::free(cell_);
  }
  TopCells(const TopCells&) = delete;
  TopCells& operator=(const TopCells&) = delete;

  // Before each stream: keep at most `limit` values above `floor`. False when memory ran out.
  bool start(std::int64_t limit, float floor) {
    limit_ = limit;
    threshold_ = floor;
    count_ = 0;
    largest_ = 2 * limit + 4 * kLeastRoom;
    full_ = false;
    return capacity_ > 0 || grow(largest_ < 1024 ? largest_ : 1024);
  }

  // Lane i of `v` belongs to cell `first + i`.
  PYLOC_INLINE void offer(PackF v, std::int32_t first) {
    const PackMask<float> above = v > threshold_;
    if (__builtin_expect(any(above), 0)) keep(v, first, above);
  }
  // The same for the cells first .. first + count - 1. What passes is appended without a branch on the
  // values: where many maps are flat, no branch could be predicted.
  void offer_run(const float* values, std::int64_t count, std::int32_t first) {
    for (std::int64_t at = 0; at < count;) {
      std::int64_t room = capacity_ - count_;
      if (room < kLeastRoom) {
        make_room();
        room = capacity_ - count_;
        if (full_) return;
      }
      const std::int64_t n = count - at < room ? count - at : room;
      append_run(values + at, n, first + static_cast<std::int32_t>(at));
      at += n;
    }
  }
  // Where the next entries will go.
  PYLOC_INLINE void prefetch() const {
    __builtin_prefetch(value_ + count_, 1);
    __builtin_prefetch(cell_ + count_, 1);
  }
  PYLOC_INLINE void raise(float floor) { threshold_ = floor > threshold_ ? floor : threshold_; }

  float threshold() const { return threshold_; }

  // Only what exceeds `floor`, at most `limit` of it. Call once after the last offer.
  void finish(float floor) {
    drop(floor, 0, 0.0f);
    if (count_ > limit_) select(limit_);
  }

  std::int64_t size() const { return count_; }
  float value(std::int64_t i) const { return value_[i]; }
  std::int32_t cell(std::int64_t i) const { return cell_[i]; }
  bool out_of_memory() const { return full_; }

 private:
  static constexpr std::int64_t kLeastRoom = 64;

  float* value_ = nullptr;
  std::int32_t* cell_ = nullptr;
  std::int64_t count_ = 0, capacity_ = 0, limit_ = 0, largest_ = 0;
  float threshold_ = 0;
  bool full_ = false;

  // Appends the lanes of `mask` at `at`; writes up to a whole pack, returns how many count.
  PYLOC_INLINE std::int64_t append(std::int64_t at, PackF v, PackI cells, PackMask<float> mask) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    const __mmask16 m = _mm512_movepi32_mask((__m512i)mask.raw);
    _mm512_storeu_ps(value_ + at, _mm512_maskz_compress_ps(m, (__m512)v.raw));
    _mm512_storeu_si512(cell_ + at, _mm512_maskz_compress_epi32(m, (__m512i)cells.raw));
    return __builtin_popcount(m);
#else
    std::int64_t n = 0;
    for (int i = 0; i < kLanes; ++i) {
      value_[at + n] = v[i];
      cell_[at + n] = cells[i];
      n += lane(mask, i);
    }
    return n;
#endif
  }

  // Appends what exceeds the threshold; there is room for all of it.
  void append_run(const float* values, std::int64_t n, std::int32_t first) {
    float* value = value_ + count_;
    std::int32_t* cell = cell_ + count_;
    const float t = threshold_;
    std::int64_t added = 0;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    const __m512 bound = _mm512_set1_ps(t);
    __m512i cells = _mm512_add_epi32((__m512i)PackI::iota().raw, _mm512_set1_epi32(first));
    for (std::int64_t i = 0; i < n; i += 16) {
      const auto live = static_cast<__mmask16>(n - i >= 16 ? 0xffff : (1 << (n - i)) - 1);
      const __m512 v = _mm512_maskz_loadu_ps(live, values + i);
      const __mmask16 above = _mm512_mask_cmp_ps_mask(live, v, bound, _CMP_GT_OQ);
      _mm512_storeu_ps(value + added, _mm512_maskz_compress_ps(above, v));
      _mm512_storeu_si512(cell + added, _mm512_maskz_compress_epi32(above, cells));
      added += __builtin_popcount(above);
      cells = _mm512_add_epi32(cells, _mm512_set1_epi32(16));
    }
#else
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const PackMask<float> above = PackF::load(values + i) > t;
      if (!any(above)) continue;
      for (int l = 0; l < kLanes; ++l) {
        value[added] = values[i + l];
        cell[added] = first + static_cast<std::int32_t>(i) + l;
        added += lane(above, l);
      }
    }
    for (; i < n; ++i) {
      value[added] = values[i];
      cell[added] = first + static_cast<std::int32_t>(i);
      added += values[i] > t;
    }
#endif
    count_ += added;
  }

  __attribute__((noinline)) void keep(PackF v, std::int32_t first, PackMask<float> above) {
    count_ += append(count_, v, PackI::iota() + first, above);
    if (count_ + kLanes > capacity_) make_room();
  }

  void make_room() {
    if (capacity_ < largest_) {
      const std::int64_t wanted = 2 * capacity_ < largest_ ? 2 * capacity_ : largest_;
      if (!grow(wanted)) count_ = 0;  // the caller sees out_of_memory()
    } else {
      select(limit_ + limit_ / 8);
    }
  }

  bool grow(std::int64_t capacity) {
    const auto bytes = 4 * static_cast<std::size_t>(capacity + 2 * kLanes);
    float* value = static_cast<float*>(std::realloc(value_, bytes));
    if (value) value_ = value;
    auto* cell = static_cast<std::int32_t*>(std::realloc(cell_, bytes));
    if (cell) cell_ = cell;
    full_ = !(value && cell);
    if (!full_) capacity_ = capacity;
    return !full_;
  }

  std::int64_t count_above(float t) {
    // Lanes past the end hold NaN, which exceeds nothing.
    PackF(__builtin_nanf("")).store(value_ + count_);
    PackI sum(0);
    for (std::int64_t i = 0; i < count_; i += kLanes)
      sum.raw -= (PackF::load(value_ + i) > t).raw;  // a true lane is -1
    std::int64_t total = 0;
    for (int i = 0; i < kLanes; ++i) total += sum[i];
    return total;
  }

  // Keeps the largest `limit_` to `most` entries (exactly limit_ when most == limit_), and raises the
  // threshold to match. Bisection between two floats, of which the lower is exceeded by at least limit_
  // entries and the upper by fewer: halving the interval finds a place among spread values in a few counts,
  // halving the number of floats in it then ends the search.
  void select(std::int64_t most) {
    if (count_above(threshold_) <= limit_) return drop(threshold_, 0, 0.0f);
    PackF top(threshold_);  // the lanes past the end are NaN since count_above
    for (std::int64_t i = 0; i < count_; i += kLanes) top = max_(PackF::load(value_ + i), top);
    const float largest = reduce_max(top);
    std::int32_t low = ordered_from_float(threshold_), high = ordered_from_float(largest);
    std::int64_t above_high = 0;
    for (int step = 0; std::int64_t{high} - low > 1; ++step) {
      auto middle = static_cast<std::int32_t>((std::int64_t{low} + high) >> 1);
      const float halfway = 0.5f * float_from_ordered(low) + 0.5f * float_from_ordered(high);
      if (step < 16 && isfinite_(halfway)) {
        const std::int32_t key = ordered_from_float(halfway);
        if (key > low && key < high) middle = key;
      }
      const std::int64_t above = count_above(float_from_ordered(middle));
      if (above >= limit_) {
        low = middle;
        if (above <= most) return drop(float_from_ordered(low), 0, 0.0f);
      } else {
        high = middle;
        above_high = above;
      }
    }
    // Entries equal to `high` straddle the limit: the earlier ones fill what is left.
    drop(float_from_ordered(high), limit_ - above_high, float_from_ordered(high));
  }

  // Keeps entries above `t`, and the first `ties` of those equal to `tie`.
  void drop(float t, std::int64_t ties, float tie) {
    raise(t);
    std::int64_t kept = 0;
    if (ties == 0) {
      PackF(__builtin_nanf("")).store(value_ + count_);
      for (std::int64_t i = 0; i < count_; i += kLanes) {
        const PackF v = PackF::load(value_ + i);
        kept += append(kept, v, PackI::load(cell_ + i), v > t);
      }
    } else {
      for (std::int64_t i = 0; i < count_; ++i) {
        const float v = value_[i];
        const bool equal = v == tie && ties > 0;
        ties -= equal;
        value_[kept] = v;
        cell_[kept] = cell_[i];
        kept += v > t || equal;
      }
    }
    count_ = kept;
  }
};

PYLOC_NAMESPACE_END
