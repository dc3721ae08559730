// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gradients of the metadata cost volume. Samples are computed again; nothing of their number is kept. With
// the volume and ln of the softmax's denominator given, views do not need each other:
//   weight w = exp(logit - log_sum),  d score = g w,  d logit = g w (score - volume).
// A task is a view and a band of the reference's rows. It owns everything that it adds to: the gradient of
// the view's projected map, a share of the reference's gradient, and sums for the weights. How many bands
// there are follows from the number of views alone, and shares are added in the order of tasks, so that the
// bits do not depend on threads.
#pragma once

#include "cpu/metadata_item.h"
#include "cpu/simd_math.h"

PYLOC_NAMESPACE_BEGIN

// Sums for the weights, of floats within kLanes cells and of doubles beyond.
template <class T>
struct MetadataSums {
  T *first, *cells;  // (2 C + 14, width1), (width1): the bias
  T* second;         // (width1, width2): input by output
  T *bias2, *third;  // (width2), (2, width2)
  T* bias3;          // (2)

  static std::int64_t count(const MetadataLayers& l) {
    return (l.values() + 1) * l.width1 + (l.width1 + 3) * l.width2 + kLanes;
  }
  void place(const MetadataLayers& l, T* memory) {
    first = memory;
    cells = first + l.values() * l.width1;
    second = cells + l.width1;
    bias2 = second + l.width1 * l.width2;
    third = bias2 + l.width2;
    bias3 = third + 2 * l.width2;
  }
};

PYLOC_INLINE PackF leaky_slope(PackF behind) { return select(behind > 0.0f, PackF(1.0f), PackF(kLeak)); }
PYLOC_INLINE void add_to(float* to, PackF x) { (PackF::load(to) + x).store(to); }

// One group of cells in one view, over all planes.
class MetadataGroup {
 public:
  MetadataGroup(const cpu::MetadataProblem& p, const MetadataLayers& l, const float* second_back,
                const float* own_back)
      : problem_(p), layers_(l), second_back_(second_back), own_back_(own_back), cells_(p, l) {}
  std::int64_t floats() const {
    const MetadataLayers& l = layers_;
    return cells_.floats() + kLanes * (3 * l.width1 + 2 * l.width2 + 2 * l.features) +
           MetadataSums<float>::count(l);
  }
  void place(float* memory) {
    const MetadataLayers& l = layers_;
    const auto take = [&](std::int64_t floats) {
      float* at = memory;
      memory += floats;
      return at;
    };
    cells_.place(take(cells_.floats()));
    hidden1_ = take(kLanes * l.width1);
    slope1_ = take(kLanes * l.width1);
    total1_ = take(kLanes * l.width1);
    hidden2_ = take(kLanes * l.width2);
    slope2_ = take(kLanes * l.width2);
    warped_ = take(kLanes * l.features);
    d_own_ = take(kLanes * l.features);
    sums_.place(l, take(MetadataSums<float>::count(l)));
  }
  // Adds to d_map, the gradient of the view's records, and to sums; writes d_own (cells of the group,
  // features).
  void run(const MetadataItem& item, std::int64_t view, std::int64_t y, std::int64_t x, const float* volume,
           const float* log_sum, const float* d_volume, float* d_map, float* d_own, double* sums);

 private:
  void evaluate(const MetadataItem& item, std::int64_t view, MetadataSamples& s, std::int64_t at,
                const float* volume, const float* log_sum, const float* d_volume);
  void last_layers_back(PackF d_score, PackF d_logit);
  void add_second();
  void first_layer_back();
  PackF add_rows(const MetadataSamples& s);
  void scatter(const MetadataSamples& s, PackF d_dot, float* d_map);
  void finish(const MetadataItem& item, std::int64_t view, float* d_own, double* sums);

  const cpu::MetadataProblem& problem_;
  const MetadataLayers& layers_;
  const float *second_back_, *own_back_;  // (h2, width1), (h1, features)
  MetadataCells cells_;
  // (lanes, width1): behind the first layer, its gradient before the LeakyReLU, and that summed over planes
  float *hidden1_, *slope1_, *total1_;
  float *hidden2_, *slope2_;  // (lanes, width2)
  float *warped_, *d_own_;    // (lanes, features)
  MetadataSums<float> sums_;
};

inline void MetadataGroup::run(const MetadataItem& item, std::int64_t view, std::int64_t y, std::int64_t x,
                               const float* volume, const float* log_sum, const float* d_volume, float* d_map,
                               float* d_own, double* sums) {
  const cpu::MetadataProblem& p = problem_;
  const MetadataLayers& l = layers_;
  cells_.set(item, y, x);
  cells_.set_view(view);
  std::memset(total1_, 0, sizeof(float) * std::size_t(kLanes * l.width1));
  std::memset(d_own_, 0, sizeof(float) * std::size_t(kLanes * l.features));
  std::memset(sums_.first, 0, sizeof(float) * std::size_t(MetadataSums<float>::count(l)));
  MetadataSamples samples[2];
  cells_.project(0, samples[0]);
  for (std::int64_t d = 0; d < p.planes; ++d) {
    if (d + 1 < p.planes) {
      MetadataSamples& next = samples[(d + 1) & 1];
      cells_.project(d + 1, next);
      next.prefetch(item.map(view), l.record());
      next.prefetch(d_map, l.record());
    }
    MetadataSamples& s = samples[d & 1];
    const std::int64_t at = ((item.index() * p.planes + d) * p.height + y) * p.width + x;
    evaluate(item, view, s, at, volume, log_sum, d_volume);
    add_second();
    first_layer_back();
    scatter(s, add_rows(s), d_map);
  }
  finish(item, view, d_own, sums);
}

// Forward once more, and the gradients of score and logit; lanes behind the row's end have none.
inline void MetadataGroup::evaluate(const MetadataItem& item, std::int64_t view, MetadataSamples& s,
                                    std::int64_t at, const float* volume, const float* log_sum,
                                    const float* d_volume) {
  const MetadataLayers& l = layers_;
  const float* map = item.map(view);
  (feature_products<true>(l, s, map, cells_.own(), warped_) * PackF::load(s.in_front)).store(s.dot);
  first_layer(l, s, map, cells_.turned(), item.centre(view), hidden1_);
  PackF found[2];
  last_layers<true>(l, hidden1_, hidden2_, found);
  const int count = cells_.count();
  const PackF weight = exp_(found[1] - PackF::load_partial(log_sum + at, count, HUGE_VALF));
  const PackF d_score = PackF::load_partial(d_volume + at, count) * weight;
  last_layers_back(d_score, d_score * (found[0] - PackF::load_partial(volume + at, count)));
}

// The gradient before the second LeakyReLU, and the sums of the third layer.
inline void MetadataGroup::last_layers_back(PackF d_score, PackF d_logit) {
  const MetadataLayers& l = layers_;
  alignas(64) float slopes[2][kLanes];
  d_score.store(slopes[0]);
  d_logit.store(slopes[1]);
  sums_.bias3[0] += reduce_add(d_score);
  sums_.bias3[1] += reduce_add(d_logit);
  for (std::int64_t j = 0; j < l.width2; j += kLanes) {
    const PackF third0 = PackF::load(l.third + j), third1 = PackF::load(l.third + l.width2 + j);
    PackF d_third0 = PackF::load(sums_.third + j), d_third1 = PackF::load(sums_.third + l.width2 + j);
    PackF d_bias = PackF::load(sums_.bias2 + j);
    for (int i = 0; i < kLanes; ++i) {
      const PackF behind = PackF::load(hidden2_ + i * l.width2 + j), a(slopes[0][i]), b(slopes[1][i]);
      const PackF d = fma_(a, third0, b * third1) * leaky_slope(behind);
      d.store(slope2_ + i * l.width2 + j);
      d_bias = d_bias + d;
      d_third0 = fma_(a, behind, d_third0);
      d_third1 = fma_(b, behind, d_third1);
    }
    d_bias.store(sums_.bias2 + j);
    d_third0.store(sums_.third + j);
    d_third1.store(sums_.third + l.width2 + j);
  }
}

// The second layer's sums: inputs times gradients, over the lanes.
inline void MetadataGroup::add_second() {
  const MetadataLayers& l = layers_;
  for (std::int64_t j = 0; j < l.width2; j += kHiddenUnit)
    for (std::int64_t k = 0; k < l.hidden1; k += kBlockRows) {  // width1 is a multiple of kBlockRows
      PackF sum[kBlockRows][2];
      float* to = sums_.second + k * l.width2 + j;
#pragma GCC unroll 8
      for (int r = 0; r < kBlockRows; ++r) {
        sum[r][0] = PackF::load(to + r * l.width2);
        sum[r][1] = PackF::load(to + r * l.width2 + kLanes);
      }
      const float *from = slope2_ + j, *input = hidden1_ + k;
      for (int i = 0; i < kLanes; ++i, from += l.width2, input += l.width1) {
        const PackF a = PackF::load(from), b = PackF::load(from + kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kBlockRows; ++r) {
          const PackF factor(input[r]);
          sum[r][0] = fma_(factor, a, sum[r][0]);
          sum[r][1] = fma_(factor, b, sum[r][1]);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kBlockRows; ++r) {
        sum[r][0].store(to + r * l.width2);
        sum[r][1].store(to + r * l.width2 + kLanes);
      }
    }
}

inline void MetadataGroup::first_layer_back() {
  const MetadataLayers& l = layers_;
  multiply_rows(slope2_, l.width2, l.hidden2, second_back_, nullptr, l.width1,
                [&](int row, std::int64_t j, PackF a, PackF b) __attribute__((always_inline)) {
                  const std::int64_t at = row * l.width1 + j;
                  (a * leaky_slope(PackF::load(hidden1_ + at))).store(slope1_ + at);
                  (b * leaky_slope(PackF::load(hidden1_ + at + kLanes))).store(slope1_ + at + kLanes);
                });
}

// The sums of the first layer's rows that change from sample to sample, and the gradient of the inner
// product.
inline PackF MetadataGroup::add_rows(const MetadataSamples& s) {
  const MetadataLayers& l = layers_;
  constexpr int kCount = 8;
  constexpr int rows[kCount] = {kInFront, kSourceDepth, kPlaneDepth,    kDot,
                                kCosine,  kSourceRay,   kSourceRay + 1, kSourceRay + 2};
  alignas(64) float rays[3][kLanes];
  for (int k = 0; k < 3; ++k) cells_.source_ray(k, s).store(rays[k]);
  const float* values[kCount] = {s.in_front, s.source_depth, s.plane_depth, s.dot,
                                 s.cosine,   rays[0],        rays[1],       rays[2]};
  const float* dot = l.row(kDot);
  PackF d_dot[kLanes];
  for (int i = 0; i < kLanes; ++i) d_dot[i] = PackF(0.0f);
  for (std::int64_t j = 0; j < l.width1; j += kLanes) {
    PackF sum[kCount];
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k)
      sum[k] = PackF::load(sums_.first + (2 * l.channels + rows[k]) * l.width1 + j);
    for (int i = 0; i < kLanes; ++i) {
      const PackF d = PackF::load(slope1_ + i * l.width1 + j);
      add_to(total1_ + i * l.width1 + j, d);
      d_dot[i] = fma_(d, PackF::load(dot + j), d_dot[i]);
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) sum[k] = fma_(PackF(values[k][i]), d, sum[k]);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) sum[k].store(sums_.first + (2 * l.channels + rows[k]) * l.width1 + j);
  }
  return reduce_packs(d_dot) * PackF::load(s.in_front);
}

// To the taps, and to the cells' own features.
inline void MetadataGroup::scatter(const MetadataSamples& s, PackF d_dot, float* d_map) {
  const MetadataLayers& l = layers_;
  alignas(64) float slopes[kLanes];
  d_dot.store(slopes);
  for (int i = 0; i < kLanes; ++i) {
    const PackF slope(slopes[i]);
    float* taps[4];
    PackF weights[4];
    for (int t = 0; t < 4; ++t) {
      taps[t] = d_map + s.offset[t][i];
      weights[t] = PackF(s.weight[t][i]);
    }
    for (std::int64_t j = 0; j < l.width1; j += kLanes) {
      const PackF d = PackF::load(slope1_ + i * l.width1 + j);
      for (int t = 0; t < 4; ++t) fma_(weights[t], d, PackF::load(taps[t] + j)).store(taps[t] + j);
    }
    for (std::int64_t c = 0; c < l.features; c += kLanes) {
      const PackF d = slope * PackF::load(cells_.own() + i * l.features + c);
      for (int t = 0; t < 4; ++t) {
        float* to = taps[t] + l.width1 + c;
        fma_(weights[t], d, PackF::load(to)).store(to);
      }
      float* own = d_own_ + i * l.features + c;
      fma_(slope, PackF::load(warped_ + i * l.features + c), PackF::load(own)).store(own);
    }
  }
}

// What the planes share: the reference's features and ray and the view's constants.
inline void MetadataGroup::finish(const MetadataItem& item, std::int64_t view, float* d_own, double* sums) {
  const MetadataLayers& l = layers_;
  alignas(64) float rays[3][kLanes];
  for (int k = 0; k < 3; ++k) cells_.ray(k).store(rays[k]);
  for (int i = 0; i < cells_.count(); ++i) {
    const float *total = total1_ + i * l.width1, *own = cells_.own() + i * l.features;
    for (std::int64_t c = 0; c < l.features; c += kLanes) {
      PackF d = PackF::load(d_own_ + i * l.features + c);
      for (std::int64_t k = 0; k < l.hidden1; ++k)
        d = fma_(PackF(total[k]), PackF::load(own_back_ + k * l.features + c), d);
      d.store(d_own + i * l.features + c);
    }
    for (std::int64_t j = 0; j < l.width1; j += kLanes) {
      const PackF d = PackF::load(total + j);
      add_to(sums_.cells + j, d);
      for (std::int64_t c = 0; c < l.channels; ++c)
        add_to(sums_.first + (l.channels + c) * l.width1 + j, d * PackF(own[c]));
      for (int k = 0; k < 3; ++k)
        add_to(sums_.first + (2 * l.channels + kRay + k) * l.width1 + j, d * PackF(rays[k][i]));
    }
  }
  for (std::int64_t j = 0; j < l.width1; j += kLanes)
    for (int k = 0; k < 3; ++k)
      (PackF::load(sums_.cells + j) * PackF(item.pose_of(view)[k]))
          .store(sums_.first + (2 * l.channels + kPose + k) * l.width1 + j);
  const std::int64_t count = MetadataSums<float>::count(l);
  for (std::int64_t i = 0; i < count; ++i) sums[i] += double(sums_.first[i]);
}

PYLOC_NAMESPACE_END
