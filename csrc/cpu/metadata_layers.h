// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The network of the metadata cost volume on a group of samples, one per lane. Its first layer is linear in
// values of which most depend on less than a sample, so that only sums are left for it here:
//   - the source's features: every source map is taken through the layer once, and the result interpolated;
//   - what a cell, a plane or a view has alone is added up once per cell, plane and view;
//   - the source's ray is (r - c / d) / |r - c / d| with the cell's ray r and the source's centre c:
//     (W r) / n - (W c) / (n d), two vectors times two numbers;
//   - whether the point lies in front, its depth, the inner product and the cosine: one product each.
#pragma once

#include "cpu/aggregate_items.h"
#include "cpu/metadata_cost_volume.h"
#include "cpu/transpose.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kLanes = PackF::kWidth;             // samples of a group
constexpr int kHiddenUnit = 2 * kLanes;           // hidden widths are padded to pairs of packs
constexpr int kBlockRows = kLanes >= 16 ? 8 : 4;  // samples of a block of accumulators
constexpr float kLeak = 0.01f;

// Rows of the transposed first layer behind the 2 C of the features.
enum MetadataRow : int {
  kInFront = 0,
  kSourceDepth = 1,
  kPlaneDepth = 2,
  kDot = 3,
  kCosine = 4,
  kRay = 5,
  kSourceRay = 8,
  kPose = 11,
  kMetadataRows = 14
};

// Weights, padded with zeros: an added unit is 0 before and behind its LeakyReLU.
struct MetadataLayers {
  std::int64_t channels, hidden1, hidden2;  // as given
  std::int64_t width1, width2, features;    // padded: h1 and h2 to pairs of packs, C to packs
  float *first, *bias1;                     // (2 C + 14, width1), (width1)
  float *second, *bias2;                    // (h1, width2), (width2)
  float* third;                             // (2, width2)
  float bias3[2];

  explicit MetadataLayers(const cpu::MetadataProblem& p)
      : channels(p.channels),
        hidden1(p.hidden1),
        hidden2(p.hidden2),
        width1(round_up(p.hidden1, kHiddenUnit)),
        width2(round_up(p.hidden2, kHiddenUnit)),
        features(round_up(p.channels, kLanes)) {}
  std::int64_t values() const { return 2 * channels + kMetadataRows; }
  std::int64_t record() const { return width1 + features; }  // floats of a cell of a projected map
  std::int64_t floats() const { return (values() + 1) * width1 + (hidden1 + 3) * width2; }
  const float* row(int metadata) const { return first + (2 * channels + metadata) * width1; }

  void place(const cpu::MetadataProblem& p, float* memory) {
    std::memset(memory, 0, sizeof(float) * std::size_t(floats()));
    first = memory;
    bias1 = first + values() * width1;
    second = bias1 + width1;
    bias2 = second + hidden1 * width2;
    third = bias2 + width2;
    for (std::int64_t j = 0; j < hidden1; ++j) {
      for (std::int64_t i = 0; i < values(); ++i) first[i * width1 + j] = p.w1[j * values() + i];
      bias1[j] = p.b1[j];
      for (std::int64_t i = 0; i < hidden2; ++i) second[j * width2 + i] = p.w2[i * hidden1 + j];
    }
    for (std::int64_t j = 0; j < hidden2; ++j) {
      bias2[j] = p.b2[j];
      for (int k = 0; k < 2; ++k) third[k * width2 + j] = p.w3[k * hidden2 + j];
    }
    for (int k = 0; k < 2; ++k) bias3[k] = p.b3[k];
  }
};

// What a group of samples brings along, lane by lane.
struct alignas(64) MetadataSamples {
  float weight[4][kLanes];         // of the taps (x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1); 0 outside
  std::int32_t offset[4][kLanes];  // floats from the view's first record
  float in_front[kLanes], source_depth[kLanes], plane_depth[kLanes], dot[kLanes], cosine[kLanes];
  float ray[kLanes], near[kLanes];  // 1 / n and 1 / (n d)
  const float* base;                // (lanes, width1): what cell and plane give to the first layer
  const float* constant;            // (width1): what the view, or view and plane, give

  // Asks for the records on the left of every sample; those on the right are mostly the next one's left.
  void prefetch(const float* map, std::int64_t record) const {
    if (record > 8 * 16) return;  // longer ones fetch themselves, being read in order
    for (int i = 0; i < kLanes; ++i)
      for (int t = 0; t < 4; t += 2)
        for (std::int64_t j = 0; j < record; j += 16) __builtin_prefetch(map + offset[t][i] + j);
  }
};

PYLOC_INLINE PackF leaky(PackF x) { return max_(x, x * PackF(kLeak)); }

// Inner products of the cells' own features (lanes, features) with the interpolated ones, which with `keep`
// are written out as well.
template <bool keep>
inline PackF feature_products(const MetadataLayers& l, const MetadataSamples& s, const float* maps,
                              const float* own, float* kept) {
  PackF sums[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const float* taps[4];
    for (int t = 0; t < 4; ++t) taps[t] = maps + l.width1 + s.offset[t][i];
    PackF total(0.0f);
    for (std::int64_t c = 0; c < l.features; c += kLanes) {
      PackF f = PackF(s.weight[0][i]) * PackF::load(taps[0] + c);
      for (int t = 1; t < 4; ++t) f = fma_(PackF(s.weight[t][i]), PackF::load(taps[t] + c), f);
      if (keep) f.store(kept + i * l.features + c);
      total = fma_(f, PackF::load(own + i * l.features + c), total);
    }
    sums[i] = total;
  }
  return reduce_packs(sums);
}

// First layer: hidden (lanes, width1) behind the LeakyReLU. `turned` (lanes, width1) and `centre` (width1)
// are the cells' rays and the view's centre through the layer.
inline void first_layer(const MetadataLayers& l, const MetadataSamples& s, const float* maps,
                        const float* turned, const float* centre, float* hidden) {
  for (std::int64_t j = 0; j < l.width1; j += kHiddenUnit) {
    const auto pair = [&](const float* from, PackF to[2]) {
      to[0] = PackF::load(from + j);
      to[1] = PackF::load(from + j + kLanes);
    };
    PackF front[2], depth[2], dot[2], cosine[2], constant[2], c[2];
    pair(l.row(kInFront), front);
    pair(l.row(kSourceDepth), depth);
    pair(l.row(kDot), dot);
    pair(l.row(kCosine), cosine);
    pair(s.constant, constant);
    pair(centre, c);
    for (int i = 0; i < kLanes; ++i) {
      const float *from = s.base + i * l.width1 + j, *rays = turned + i * l.width1 + j;
      PackF sum[2] = {PackF::load(from) + constant[0], PackF::load(from + kLanes) + constant[1]};
      const auto add = [&](float factor, PackF a, PackF b) {
        sum[0] = fma_(PackF(factor), a, sum[0]);
        sum[1] = fma_(PackF(factor), b, sum[1]);
      };
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        const float* tap = maps + s.offset[t][i] + j;
        add(s.weight[t][i], PackF::load(tap), PackF::load(tap + kLanes));
      }
      add(s.ray[i], PackF::load(rays), PackF::load(rays + kLanes));
      add(-s.near[i], c[0], c[1]);
      add(s.in_front[i], front[0], front[1]);
      add(s.source_depth[i], depth[0], depth[1]);
      add(s.dot[i], dot[0], dot[1]);
      add(s.cosine[i], cosine[0], cosine[1]);
      leaky(sum[0]).store(hidden + i * l.width1 + j);
      leaky(sum[1]).store(hidden + i * l.width1 + j + kLanes);
    }
  }
}

// The product of rows x (lanes, depth of x_ld) with weights (depth, width): each(row, column, a, b) is called
// with the packs of columns [column, column + kHiddenUnit) and must be inlined. bias (width) may be null.
template <class Each>
PYLOC_INLINE void multiply_rows(const float* x, std::int64_t x_ld, std::int64_t depth, const float* weights,
                                const float* bias, std::int64_t width, const Each& each) {
  for (std::int64_t j = 0; j < width; j += kHiddenUnit)
    for (int first = 0; first < kLanes; first += kBlockRows) {
      PackF sum[kBlockRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kBlockRows; ++r) {
        sum[r][0] = bias ? PackF::load(bias + j) : PackF(0.0f);
        sum[r][1] = bias ? PackF::load(bias + j + kLanes) : PackF(0.0f);
      }
      const float *from = x + first * x_ld, *column = weights + j;
      for (std::int64_t k = 0; k < depth; ++k, column += width) {
        const PackF a = PackF::load(column), b = PackF::load(column + kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kBlockRows; ++r) {
          const PackF factor(from[r * x_ld + k]);
          sum[r][0] = fma_(factor, a, sum[r][0]);
          sum[r][1] = fma_(factor, b, sum[r][1]);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kBlockRows; ++r) each(first + r, j, sum[r][0], sum[r][1]);
    }
}

// Second and third layer: score and weight logit of every lane. With `keep` the second hidden layer (lanes,
// width2) behind its LeakyReLU is written out.
template <bool keep>
inline void last_layers(const MetadataLayers& l, const float* hidden, float* kept, PackF found[2]) {
  PackF sums[2][kLanes];
  for (int i = 0; i < kLanes; ++i) sums[0][i] = sums[1][i] = PackF(0.0f);
  multiply_rows(hidden, l.width1, l.hidden1, l.second, l.bias2, l.width2,
                [&](int row, std::int64_t j, PackF first, PackF second) __attribute__((always_inline)) {
                  const PackF a = leaky(first), b = leaky(second);
                  if (keep) {
                    a.store(kept + row * l.width2 + j);
                    b.store(kept + row * l.width2 + j + kLanes);
                  }
                  for (int k = 0; k < 2; ++k) {
                    const float* third = l.third + k * l.width2 + j;
                    sums[k][row] =
                        fma_(a, PackF::load(third), fma_(b, PackF::load(third + kLanes), sums[k][row]));
                  }
                });
  for (int k = 0; k < 2; ++k) found[k] = reduce_packs(sums[k]) + PackF(l.bias3[k]);
}

PYLOC_NAMESPACE_END
