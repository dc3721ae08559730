// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The network of the metadata cost volume for bfloat16 features, by AVX512_BF16: a product of pairs of 16-bit
// operands takes as long as one of floats. Operands are rounded, sums are float32:
//   - records hold the pair of a cell and its right neighbour, so that two taps are one product;
//   - the four scalars of a sample go in pairs, and so do the inputs of the second layer.
// Rays, biases and the third layer stay float32, as does all geometry.
#pragma once

#include "cpu/metadata_item.h"

#if defined(__AVX512F__)
#define PYLOC_BF16 __attribute__((target("avx512bf16")))

PYLOC_NAMESPACE_BEGIN

// Two packs rounded to bfloat16, lane by lane: `low` in the lower halves.
PYLOC_BF16 inline __m512i bf16_pairs(PackF low, PackF high) {
  typedef std::uint16_t Halves __attribute__((vector_size(32)));
  const auto rounded = [](PackF x) PYLOC_BF16 {
    const Halves halves = (Halves)_mm512_cvtneps_pbh((__m512)x.raw);
    return PackI(__builtin_convertvector(halves, PackI::Raw));
  };
  return (__m512i)bit_or(rounded(low), shift_left(rounded(high), 16)).raw;
}
PYLOC_BF16 static __attribute__((noinline)) void store_bf16_pairs(const float* low, const float* high,
                                                                  std::int64_t count, std::uint32_t* to) {
  for (std::int64_t i = 0; i < count; i += kLanes)
    _mm512_storeu_si512(to + i, bf16_pairs(PackF::load(low + i), PackF::load(high + i)));
}

// Weights as pairs; the others are those of MetadataLayers.
struct MetadataBf16Layers {
  std::uint32_t* scalars;  // two rows of width1: (in front, source depth) and (dot, cosine)
  std::uint32_t* second;   // (h1 / 2, width2): neighbouring inputs
  std::int64_t pairs;      // of the second layer's inputs

  explicit MetadataBf16Layers(const MetadataLayers& l) : pairs((l.hidden1 + 1) / 2) {}
  std::int64_t words(const MetadataLayers& l) const { return 2 * l.width1 + (pairs + 1) * l.width2; }
  void place(const MetadataLayers& l, std::uint32_t* memory) {
    scalars = memory;
    second = scalars + 2 * l.width1;
    store_bf16_pairs(l.row(kInFront), l.row(kSourceDepth), l.width1, scalars);
    store_bf16_pairs(l.row(kDot), l.row(kCosine), l.width1, scalars + l.width1);
    auto* zeros = reinterpret_cast<float*>(second + pairs * l.width2);
    std::memset(zeros, 0, sizeof(float) * std::size_t(l.width2));
    for (std::int64_t k = 0; k < pairs; ++k) {
      const float* low = l.second + 2 * k * l.width2;
      store_bf16_pairs(low, 2 * k + 1 < l.hidden1 ? low + l.width2 : zeros, l.width2, second + k * l.width2);
    }
  }
};

// A row of n records from floats to pairs, in place.
inline void pair_records(float* records, std::int64_t n, std::int64_t record) {
  for (std::int64_t x = 0; x < n; ++x, records += record)
    store_bf16_pairs(records, x + 1 < n ? records + record : records, record,
                     reinterpret_cast<std::uint32_t*>(records));  // beyond the last cell the weight is 0
}

// Weights of the two pairs of taps and of the scalars, lane by lane.
struct alignas(64) MetadataPairs {
  std::uint32_t above[kLanes], below[kLanes], front_depth[kLanes], dot_cosine[kLanes];
};

PYLOC_BF16 inline void pair_weights(const MetadataSamples& s, MetadataPairs& pairs) {
  // One column only (a sample beyond the left or the right edge): its weight goes to the record's own cell.
  const __mmask16 alone =
      _mm512_cmpeq_epi32_mask(_mm512_load_si512(s.offset[0]), _mm512_load_si512(s.offset[1]));
  std::uint32_t* to[2] = {pairs.above, pairs.below};
  for (int row = 0; row < 2; ++row) {
    const __m512 left = _mm512_load_ps(s.weight[2 * row]), right = _mm512_load_ps(s.weight[2 * row + 1]);
    const __m512 own = _mm512_mask_add_ps(left, alone, left, right);
    const __m512 next = _mm512_maskz_mov_ps(__mmask16(~alone), right);
    _mm512_store_si512(to[row], bf16_pairs(PackF((PackF::Raw)own), PackF((PackF::Raw)next)));
  }
  _mm512_store_si512(pairs.front_depth, bf16_pairs(PackF::load(s.in_front), PackF::load(s.source_depth)));
}

PYLOC_BF16 PYLOC_INLINE __m512 dot_pairs(__m512 sum, std::uint32_t factor, const void* pairs) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(int(factor)), (__m512bh)_mm512_loadu_si512(pairs));
}

PYLOC_BF16 inline PackF feature_products_bf16(const MetadataLayers& l, const MetadataSamples& s,
                                              const MetadataPairs& w, const float* maps, const float* own) {
  PackF sums[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const float *above = maps + l.width1 + s.offset[0][i], *below = maps + l.width1 + s.offset[2][i];
    __m512 total = _mm512_setzero_ps();
    for (std::int64_t c = 0; c < l.features; c += kLanes) {
      const __m512 f =
          dot_pairs(dot_pairs(_mm512_setzero_ps(), w.above[i], above + c), w.below[i], below + c);
      total = _mm512_fmadd_ps(f, _mm512_loadu_ps(own + i * l.features + c), total);
    }
    sums[i] = PackF((PackF::Raw)total);
  }
  return reduce_packs(sums);
}

// Hidden values (lanes, width1 / 2) of neighbouring pairs.
PYLOC_BF16 inline void first_layer_bf16(const MetadataLayers& l, const MetadataBf16Layers& b,
                                        const MetadataSamples& s, const MetadataPairs& w, const float* maps,
                                        const float* turned, const float* centre, std::uint32_t* hidden) {
  for (std::int64_t j = 0; j < l.width1; j += kHiddenUnit) {
    __m512 constant[2], c[2];
    __m512bh scalars[2][2];
    for (int k = 0; k < 2; ++k) {
      constant[k] = _mm512_loadu_ps(s.constant + j + k * kLanes);
      c[k] = _mm512_loadu_ps(centre + j + k * kLanes);
      for (int r = 0; r < 2; ++r)
        scalars[r][k] = (__m512bh)_mm512_loadu_si512(b.scalars + r * l.width1 + j + k * kLanes);
    }
    for (int i = 0; i < kLanes; ++i) {
      const float *above = maps + s.offset[0][i] + j, *below = maps + s.offset[2][i] + j;
      const float *base = s.base + i * l.width1 + j, *rays = turned + i * l.width1 + j;
      const __m512bh first = (__m512bh)_mm512_set1_epi32(int(w.front_depth[i]));
      const __m512bh second = (__m512bh)_mm512_set1_epi32(int(w.dot_cosine[i]));
      const __m512 ray = _mm512_set1_ps(s.ray[i]), near = _mm512_set1_ps(s.near[i]);
      __m512 sum[2];
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        __m512 x = _mm512_add_ps(_mm512_loadu_ps(base + k * kLanes), constant[k]);
        x = _mm512_fmadd_ps(ray, _mm512_loadu_ps(rays + k * kLanes), x);
        x = _mm512_fnmadd_ps(near, c[k], x);
        x = dot_pairs(dot_pairs(x, w.above[i], above + k * kLanes), w.below[i], below + k * kLanes);
        x = _mm512_dpbf16_ps(_mm512_dpbf16_ps(x, first, scalars[0][k]), second, scalars[1][k]);
        sum[k] = (__m512)leaky(PackF((PackF::Raw)x)).raw;
      }
      _mm512_storeu_si512(hidden + (i * l.width1 + j) / 2, (__m512i)_mm512_cvtne2ps_pbh(sum[1], sum[0]));
    }
  }
}

PYLOC_BF16 inline void last_layers_bf16(const MetadataLayers& l, const MetadataBf16Layers& b,
                                        const std::uint32_t* hidden, PackF found[2]) {
  const std::int64_t ld = l.width1 / 2;
  PackF sums[2][kLanes];
  for (int i = 0; i < kLanes; ++i) sums[0][i] = sums[1][i] = PackF(0.0f);
  for (std::int64_t j = 0; j < l.width2; j += kHiddenUnit)
    for (int first = 0; first < kLanes; first += kBlockRows) {
      __m512 sum[kBlockRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kBlockRows; ++r) {
        sum[r][0] = _mm512_loadu_ps(l.bias2 + j);
        sum[r][1] = _mm512_loadu_ps(l.bias2 + j + kLanes);
      }
      const std::uint32_t *from = hidden + first * ld, *weights = b.second + j;
      for (std::int64_t k = 0; k < b.pairs; ++k, weights += l.width2) {
        const __m512bh low = (__m512bh)_mm512_loadu_si512(weights);
        const __m512bh high = (__m512bh)_mm512_loadu_si512(weights + kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kBlockRows; ++r) {
          const __m512bh x = (__m512bh)_mm512_set1_epi32(int(from[r * ld + k]));
          sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, low);
          sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, high);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kBlockRows; ++r)
        for (int half = 0; half < 2; ++half) {
          const PackF x = leaky(PackF((PackF::Raw)sum[r][half]));
          for (int k = 0; k < 2; ++k) {
            const PackF third = PackF::load(l.third + k * l.width2 + j + half * kLanes);
            PackF& to = sums[k][first + r];
            to = fma_(x, third, to);
          }
        }
    }
  for (int k = 0; k < 2; ++k) found[k] = reduce_packs(sums[k]) + PackF(l.bias3[k]);
}

// Score and weight logit of a group of samples. `hidden` is room for kLanes * width1 floats.
PYLOC_BF16 static __attribute__((noinline)) void evaluate_bf16(
    const MetadataLayers& l, const MetadataBf16Layers& b, const MetadataSamples& s, const float* maps,
    const float* own, const float* turned, const float* centre, float* hidden, PackF found[2]) {
  MetadataPairs pairs;
  pair_weights(s, pairs);
  const PackF dot = feature_products_bf16(l, s, pairs, maps, own) * PackF::load(s.in_front);
  _mm512_store_si512(pairs.dot_cosine, bf16_pairs(dot, PackF::load(s.cosine)));
  auto* halves = reinterpret_cast<std::uint32_t*>(hidden);
  first_layer_bf16(l, b, s, pairs, maps, turned, centre, halves);
  last_layers_bf16(l, b, halves, found);
}

PYLOC_NAMESPACE_END
#endif
