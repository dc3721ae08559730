// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The samples of a cell on a pack of neighbouring planes. They walk along a line of the source map, and often
// several of them lie between the same four taps: such a run shares its inner products, <f, sum_t w_t F_t> =
// sum_t w_t <f, F_t>.
#pragma once

#include "cpu/simd.h"
#include "cpu/transpose.h"
#include "pyloc/plane_sweep.h"

PYLOC_NAMESPACE_BEGIN

PYLOC_INLINE std::uint32_t mask_bits(PackMask<std::int32_t> m) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)m.raw);
#elif defined(__AVX2__)
  return std::uint32_t(_mm256_movemask_ps((__m256)m.raw));
#elif defined(__SSE2__)
  return std::uint32_t(_mm_movemask_ps((__m128)m.raw));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < PackI::kWidth; ++i) bits |= std::uint32_t(m.raw[i] != 0) << i;
  return bits;
#endif
}

struct SampleBlock {
  PackI
      tap;  // upper left one, as cell of the map with its border; cell 0, which is zero, where no tap counts
  PackF a, b;  // fractions to the right and down; 0 there
  SweepVector<PackF> at;
};

// False when no sample of the block touches the map. A lane without a plane has the inverse depth NaN.
PYLOC_INLINE bool place_samples(const float* projection, const SweepVector<float>& ray, PackF inverse_depth,
                                std::int64_t height, std::int64_t width, SampleBlock& out) {
  const SweepVector<PackF> rays{PackF(ray.x), PackF(ray.y), PackF(ray.z)};
  out.at = sweep_sample(projection, rays, inverse_depth);
  const PackMask<float> touches = sweep_touches(out.at, float(width), float(height));
  if (!any(touches)) return false;
  const PackF x = select(touches, out.at.x, PackF(-1.0f)), y = select(touches, out.at.y, PackF(-1.0f));
  const PackF left = floor_(x), top = floor_(y);
  out.a = x - left;
  out.b = y - top;
  out.tap = (to_int(top) + 1) * PackI(std::int32_t(width) + 2) + (to_int(left) + 1);
  return true;
}

template <int... I>
PYLOC_INLINE PackI previous_lanes(PackI a, std::integer_sequence<int, I...>) {
  return PackI(__builtin_shufflevector(a.raw, a.raw, (I == 0 ? 0 : I - 1)...));
}

// The first lanes of runs between the same four taps, as bits.
PYLOC_INLINE std::uint32_t run_starts(PackI tap) {
  const PackI previous = previous_lanes(tap, std::make_integer_sequence<int, PackI::kWidth>());
  return mask_bits(tap != previous) | 1u;
}

struct TapWeights {
  PackF w[4];  // upper left, upper right, lower left, lower right

  PYLOC_INLINE explicit TapWeights(const SampleBlock& s) {
    w[3] = s.a * s.b;
    w[1] = s.a - w[3];
    w[2] = s.b - w[3];
    w[0] = (PackF(1.0f) - s.a) - w[2];
  }
};

// The inner products of a cell's features with the map's at the samples. `packs` is N, or any number where N
// is 0.
template <int N>
class SampleDots {
 public:
  SampleDots(const float* map, std::int64_t pitch, int packs)
      : map_(map), packs_(N ? N : packs), stride_(packs_ * PackF::kWidth), down_(pitch * stride_) {}

  PYLOC_INLINE PackF operator()(const float* features, const SampleBlock& s) const {
    const std::uint32_t starts = run_starts(s.tap);
    alignas(64) std::int32_t taps[PackI::kWidth];
    s.tap.store(taps);
    if (__builtin_popcount(starts) <= kShareRuns) return by_runs(features, s, starts, taps);
    return one_by_one(features, s, taps);
  }

 private:
  static constexpr int W = PackF::kWidth;
  static constexpr int kShareRuns = W / 2;

  PYLOC_INLINE int packs() const { return N ? N : packs_; }

  PYLOC_INLINE PackF one_by_one(const float* features, const SampleBlock& s, const std::int32_t* taps) const {
    alignas(64) float a[W], b[W];
    s.a.store(a);
    s.b.store(b);
    PackF sums[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const float* p = map_ + taps[i] * stride_;
      const PackF right(a[i]), below(b[i]);
      PackF sum(0.0f);
      for (int k = 0; k < packs(); ++k) {
        const float* q = p + k * W;
        const PackF f00 = PackF::load(q), f01 = PackF::load(q + down_);
        const PackF upper = fma_(right, PackF::load(q + stride_) - f00, f00);
        const PackF lower = fma_(right, PackF::load(q + down_ + stride_) - f01, f01);
        sum = fma_(PackF::load(features + k * W), fma_(below, lower - upper, upper), sum);
      }
      sums[i] = sum;
    }
    return reduce_packs(sums);
  }

  PYLOC_INLINE PackF by_runs(const float* features, const SampleBlock& s, std::uint32_t starts,
                             const std::int32_t* taps) const {
    constexpr int kRuns = W / 4;
    const TapWeights weights(s);
    PackF out(0.0f);
    do {
      PackF sums[W];
      float first[kRuns];
#pragma GCC unroll 4
      for (int r = 0; r < kRuns; ++r) {  // a run too many is the last one again
        const int lane = starts ? __builtin_ctz(starts) : W - 1;
        starts &= starts - (starts != 0);
        first[r] = float(lane);
        const float* p = map_ + taps[lane] * stride_;
        PackF* sum = sums + 4 * r;
        for (int t = 0; t < 4; ++t) sum[t] = PackF(0.0f);
        for (int k = 0; k < packs(); ++k) {
          const PackF f = PackF::load(features + k * W);
          const float* q = p + k * W;
          sum[0] = fma_(f, PackF::load(q), sum[0]);
          sum[1] = fma_(f, PackF::load(q + stride_), sum[1]);
          sum[2] = fma_(f, PackF::load(q + down_), sum[2]);
          sum[3] = fma_(f, PackF::load(q + down_ + stride_), sum[3]);
        }
      }
      alignas(64) float dots[W];
      reduce_packs(sums).store(dots);
#pragma GCC unroll 4
      for (int r = 0; r < kRuns; ++r) {
        PackF value = weights.w[0] * dots[4 * r];
        for (int t = 1; t < 4; ++t) value = fma_(weights.w[t], PackF(dots[4 * r + t]), value);
        out = select(PackF::iota() >= first[r], value, out);
      }
    } while (starts);
    return out;
  }

  const float* map_;
  int packs_;
  std::int64_t stride_, down_;
};

PYLOC_NAMESPACE_END
