// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The samples of a cell on neighbouring planes. They walk along a line of the source map, and often several
// of them lie between the same four taps: such a run shares its inner products, <f, sum_t w_t F_t> = sum_t
// w_t <f, F_t>.
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

constexpr auto kLanes = std::make_integer_sequence<int, PackF::kWidth>();

template <int... I>
PYLOC_INLINE PackI shifted_in(PackI before, PackI a, std::integer_sequence<int, I...>) {
  return PackI(__builtin_shufflevector(before.raw, a.raw, (PackI::kWidth - 1 + I)...));
}
// Lane i becomes lane i - B, the first ones `fill`'s.
template <int B, class T, int... I>
PYLOC_INLINE Pack<T> shifted_by(Pack<T> a, Pack<T> fill, std::integer_sequence<int, I...>) {
  return Pack<T>(__builtin_shufflevector(a.raw, fill.raw, (I < B ? Pack<T>::kWidth : I - B)...));
}
// Lane i: the sum of lanes 0 to i.
template <int B = 1>
PYLOC_INLINE PackI running_sum(PackI a) {
  if constexpr (B < PackI::kWidth) return running_sum<2 * B>(a + shifted_by<B>(a, PackI(0), kLanes));
  return a;
}

// The lanes of `a` whose bit is set, one after the other; may write a whole pack.
template <class T>
PYLOC_INLINE void store_chosen(Pack<T> a, std::uint32_t chosen, T* to) {
#if defined(__AVX512F__)
  Pack<T>((typename Pack<T>::Raw)_mm512_maskz_compress_epi32(__mmask16(chosen), (__m512i)a.raw)).store(to);
#else
  alignas(64) T lanes[Pack<T>::kWidth];
  a.store(lanes);
  for (; chosen; chosen &= chosen - 1) *to++ = lanes[__builtin_ctz(chosen)];
#endif
}

PYLOC_INLINE PackF permuted(PackF a, PackI lanes) {
#if defined(__AVX512F__)
  return PackF((PackF::Raw)_mm512_permutexvar_ps((__m512i)lanes.raw, (__m512)a.raw));
#elif defined(__AVX2__)
  return PackF((PackF::Raw)_mm256_permutevar8x32_ps((__m256)a.raw, (__m256i)lanes.raw));
#else
  PackF r;
  for (int i = 0; i < PackF::kWidth; ++i) r.raw[i] = a.raw[lanes.raw[i]];
  return r;
#endif
}

struct TapWeights {
  PackF w[4];  // upper left, upper right, lower left, lower right

  PYLOC_INLINE TapWeights(PackF a, PackF b) {
    w[3] = a * b;
    w[1] = a - w[3];
    w[2] = b - w[3];
    w[0] = (PackF(1.0f) - a) - w[2];
  }
};

// The samples of one cell on up to kPlanes planes, without the packs of which none touches the map, and their
// runs between the same four taps.
struct CellSamples {
  static constexpr int W = PackF::kWidth, kPlanes = 64, kBlocks = kPlanes / W;
  int blocks = 0, runs = 0;
  int plane[kBlocks];             // first plane of the block
  int first_run[kBlocks];         // of the block
  std::uint32_t starts[kBlocks];  // lanes of the block where a run starts
  alignas(64) float a[kPlanes], b[kPlanes];
  alignas(64) std::int32_t run[kPlanes];       // of every lane, from the block's first on
  alignas(64) std::int32_t taps[kPlanes + W];  // of the runs; zero for a pack beyond them

  PackI last = PackI(-1);
  PYLOC_INLINE void clear() {
    blocks = runs = 0;
    last = PackI(-1);
  }

  PYLOC_INLINE void add(int d, const SampleBlock& s) {
    const PackMask<std::int32_t> changes = s.tap != shifted_in(last, s.tap, kLanes);
    const std::uint32_t bits = mask_bits(changes);
    const int first = int(bits & 1);
    const PackI count = running_sum(PackI(changes.raw));  // of minus one
    (PackI(-first) - count).store(run + blocks * W);
    s.a.store(a + blocks * W);
    s.b.store(b + blocks * W);
    store_chosen(s.tap, bits, taps + runs);
    plane[blocks] = d;
    starts[blocks] = bits;
    first_run[blocks] = runs - 1 + first;
    runs += __builtin_popcount(bits);
    last = s.tap;
    ++blocks;
  }
  PYLOC_INLINE void finish() { PackI(0).store(taps + runs); }
};

// W packs to one as reduce_packs, in the same order of sums: half of its shuffles are blends here.
template <int B, int... I>
PYLOC_INLINE PackF folded(PackF a, PackF b, std::integer_sequence<int, I...>) {
  constexpr int W = PackF::kWidth;
  const PackF kept(__builtin_shufflevector(a.raw, b.raw, (I & B ? W + I : I)...));
  const PackF crossed(__builtin_shufflevector(a.raw, b.raw, (I & B ? W + I - B : I + B)...));
  return kept + crossed;
}
template <int B = PackF::kWidth / 2>
PYLOC_INLINE PackF folded_packs(PackF* packs) {
  for (int i = 0; i < B; ++i) packs[i] = folded<B>(packs[i], packs[i + B], kLanes);
  if constexpr (B > 1) return folded_packs<B / 2>(packs);
  return packs[0];
}

// The inner products of a cell's features with the map's at the samples. `packs` is N, or any number where N
// is 0.
template <int N>
class SampleDots {
 public:
  SampleDots(const float* map, std::int64_t pitch, int packs)
      : map_(map), packs_(N ? N : packs), stride_(packs_ * PackF::kWidth), down_(pitch * stride_) {}

  // Of every run with the four taps.
  PYLOC_INLINE void run(const float* features, const CellSamples& s) {
    for (int r = 0; r < s.runs; r += kRuns) {
      PackF sums[W];
#pragma GCC unroll 4
      for (int i = 0; i < kRuns; ++i) {
        const float* p = map_ + s.taps[r + i] * stride_;
        for (int t = 0; t < 4; ++t) sums[t * kRuns + i] = PackF(0.0f);
        for (int k = 0; k < (N ? N : packs_); ++k) {
          const PackF f = PackF::load(features + k * W);
          const float* q = p + k * W;
          PackF* sum = sums + i;
          sum[0] = fma_(f, PackF::load(q), sum[0]);
          sum[kRuns] = fma_(f, PackF::load(q + stride_), sum[kRuns]);
          sum[2 * kRuns] = fma_(f, PackF::load(q + down_), sum[2 * kRuns]);
          sum[3 * kRuns] = fma_(f, PackF::load(q + down_ + stride_), sum[3 * kRuns]);
        }
      }
      const PackF found = folded_packs(sums);
      for (int t = 0; t < 4; ++t)
        std::memcpy(dots_[t] + r, reinterpret_cast<const char*>(&found.raw) + t * W, sizeof(float) * kRuns);
    }
  }

  // Of a block's samples.
  PYLOC_INLINE PackF block(const CellSamples& s, int i) const {
    const TapWeights weights(PackF::load(s.a + i * W), PackF::load(s.b + i * W));
    const PackI lanes = PackI::load(s.run + i * W);
    PackF sum(0.0f);
    for (int t = 0; t < 4; ++t)
      sum = fma_(weights.w[t], permuted(PackF::load(dots_[t] + s.first_run[i]), lanes), sum);
    return sum;
  }

 private:
  static constexpr int W = PackF::kWidth, kRuns = W / 4;

  const float* map_;
  int packs_;
  std::int64_t stride_, down_;
  alignas(64) float dots_[4][CellSamples::kPlanes + W];
};

PYLOC_NAMESPACE_END
