// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The largest values of a stream, with the cells they come from, in one pass.
//
// Cells are offered in ascending order. A value that cannot be among the `limit` largest is dropped by one
// comparison with a threshold; the others are appended to a buffer of about four times the limit, and when
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
    largest_ = limit < (std::int64_t{1} << 40) ? 4 * limit + 64 : limit;
    full_ = false;
    return capacity_ > 0 || grow(largest_ < 1024 ? largest_ : 1024);
  }

  // Lane i of `v` belongs to cell `first + i`.
  PYLOC_INLINE void offer(PackF v, std::int32_t first) {
    const PackMask<float> above = v > threshold_;
    if (__builtin_expect(any(above), 0)) keep(v, first, above);
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

  __attribute__((noinline)) void keep(PackF v, std::int32_t first, PackMask<float> above) {
    count_ += append(count_, v, PackI::iota() + first, above);
    if (count_ + kLanes > capacity_) make_room();
  }

  void make_room() {
    if (capacity_ < largest_) {
      const std::int64_t wanted = 2 * capacity_ < largest_ ? 2 * capacity_ : largest_;
      if (!grow(wanted)) count_ = 0;  // the caller sees out_of_memory()
    } else {
      select(limit_ + limit_ / 4);
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
  // threshold to match. Bisection over the float values: at most 33 counts.
  void select(std::int64_t most) {
    if (count_above(threshold_) <= limit_) return drop(threshold_, 0, 0.0f);
    std::int32_t low = ordered_from_float(threshold_);  // exceeded by at least limit_ entries
    std::int32_t high = ordered_from_float(INFINITY);   // exceeded by fewer
    std::int64_t above_high = 0;
    while (high > low && std::int64_t{high} - low > 1) {
      const auto middle = static_cast<std::int32_t>((std::int64_t{low} + high) >> 1);
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
