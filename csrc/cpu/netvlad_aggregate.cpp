// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/netvlad_aggregate.h"

#include "cpu/aggregate_items.h"
#include "cpu/row_softmax.h"
#include "cpu/simd_math.h"
#include "cpu/unit_parts.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

std::int64_t valid_patches(const NetvladProblem& p, std::int64_t item) {
  return p.num_columns ? p.num_columns[item] : p.patches;
}

// Softmax over the clusters of every patch into weights (K, ld), zero from the item's patches on to the next
// multiple of kRowUnit. Returns false when a logit is not finite. log_sum (n) may be null.
bool soft_assignment(const NetvladProblem& p, std::int64_t item, float* weights, std::int64_t ld,
                     float* log_sum) {
  constexpr int W = PackF::kWidth;
  const std::int64_t valid = valid_patches(p, item), end = round_up(valid, kRowUnit);
  bool finite = true;
  for (std::int64_t k = 0; k < p.clusters; ++k) {
    float* row = weights + k * ld;
    load_floats(p.logit_dtype, p.logits, (item * p.clusters + k) * p.patches, valid, row);
    finite = all_finite_of(row, valid) && finite;
    for (std::int64_t j = valid; j < end; ++j) row[j] = 0.0f;
  }
  const PackF log2e(1.44269504088896f);
  alignas(64) float tops[PackF::kWidth], sums[PackF::kWidth];
  for (std::int64_t j = 0; j < round_up(valid, W); j += W) {
    PackF top = PackF::load(weights + j), sum(0.0f);
    for (std::int64_t k = 1; k < p.clusters; ++k) top = max_(PackF::load(weights + k * ld + j), top);
    for (std::int64_t k = 0; k < p.clusters; ++k) {
      const PackF e = exp2_nonpositive_((PackF::load(weights + k * ld + j) - top) * log2e);
      sum = sum + e;
      e.store(weights + k * ld + j);
    }
    const PackF inverse = select(PackF::iota() < float(valid - j), PackF(1.0f) / sum, PackF(0.0f));
    for (std::int64_t k = 0; k < p.clusters; ++k)
      (PackF::load(weights + k * ld + j) * inverse).store(weights + k * ld + j);
    top.store(tops);
    sum.store(sums);
    for (int i = 0; log_sum && i < W && j + i < valid; ++i) log_sum[j + i] = tops[i] + std::log(sums[i]);
  }
  for (std::int64_t j = valid; log_sum && j < p.patches; ++j) log_sum[j] = HUGE_VALF;
  return finite;
}

// Sum of a row of weights over the item's patches.
float mass_of(const float* row, std::int64_t valid) {
  PackF sum(0.0f);
  for (std::int64_t j = 0; j < valid; j += PackF::kWidth) sum = sum + PackF::load(row + j);
  return reduce_add(sum);
}

class Forward {
 public:
  Forward(const NetvladProblem& p, const NetvladOutput& out)
      : problem_(p), out_(out), ld_(round_up(p.patches, kRowUnit)) {}
  std::int64_t slot_floats() const { return (problem_.clusters + kDotBlock) * ld_ + problem_.clusters; }

  int run(std::int64_t item, float* weights) const {
    const NetvladProblem& p = problem_;
    const std::int64_t size = p.clusters * p.depth, valid = valid_patches(p, item);
    float *residual = out_.residual + item * size, *to = out_.descriptor + item * size;
    float* log_sum = out_.log_sum ? out_.log_sum + item * p.patches : nullptr;
    if (!soft_assignment(p, item, weights, ld_, log_sum)) return kAggregateBadScores;
    float *features = weights + p.clusters * ld_, *masses = features + kDotBlock * ld_;
    for (std::int64_t k = 0; k < p.clusters; ++k) masses[k] = mass_of(weights + k * ld_, valid);
    const PatchRows rows{p.features, p.feature_dtype, item * p.depth * p.patches, p.patches, valid};
    sum_features(weights, p.clusters, ld_, rows, p.depth, features, residual, 1, p.depth);
    float squares = 0.0f;
    for (std::int64_t k = 0; k < p.clusters; ++k) {
      float* row = residual + k * p.depth;
      for (std::int64_t i = 0; i < p.depth; ++i) row[i] -= masses[k] * p.centroids[k * p.depth + i];
      const float length = std::sqrt(inner_product(row, row, p.depth)), inverse = inverse_length(length);
      for (std::int64_t i = 0; i < p.depth; ++i) to[k * p.depth + i] = row[i] * inverse;
      squares += unit_square(length);
    }
    const float factor = inverse_length(std::sqrt(squares));
    for (std::int64_t i = 0; i < size; ++i) to[i] *= factor;
    return isfinite_(squares) ? kAggregateDone : kAggregateBadSums;
  }

 private:
  const NetvladProblem& problem_;
  const NetvladOutput& out_;
  std::int64_t ld_;
};

// ds = w (G - <w, G>) per patch with G_kj = <R_k, x_j - c_k>, R the gradient of the residuals; dx = R^T w;
// the centroids' share of an item, -sum_j w_kj R_k, goes to an array of its own and is added in order.
class Backward {
 public:
  Backward(const NetvladProblem& p, const NetvladGradients& g, float* shares)
      : problem_(p), gradients_(g), shares_(shares), ld_(round_up(p.patches, kRowUnit)) {}
  std::int64_t slot_floats() const {
    const std::int64_t k = problem_.clusters, depth = problem_.depth;
    return 2 * k * ld_ + round_up(k * depth, 16) + round_up(k, 16) +
           PatchGradients(k, depth, problem_.feature_dtype).floats();
  }
  int run(std::int64_t item, float* memory) const;

 private:
  void split(std::int64_t item, float* d_residual, float* offsets) const;

  const NetvladProblem& problem_;
  const NetvladGradients& gradients_;
  float* shares_;  // (B, K, D)
  std::int64_t ld_;
};

// R, and <R_k, c_k>.
void Backward::split(std::int64_t item, float* d_residual, float* offsets) const {
  const NetvladProblem& p = problem_;
  const std::int64_t depth = p.depth, size = p.clusters * depth;
  const float *residual = gradients_.residual + item * size, *d = gradients_.d_descriptor + item * size;
  float squares = 0.0f;
  for (std::int64_t k = 0; k < p.clusters; ++k) {
    const float* row = residual + k * depth;
    offsets[k] = std::sqrt(inner_product(row, row, depth));
    squares += unit_square(offsets[k]);
  }
  const float factor = inverse_length(std::sqrt(squares));
  for (std::int64_t k = 0; k < p.clusters; ++k) {
    const float *row = residual + k * depth, *slope = d + k * depth;
    const float inverse = inverse_length(offsets[k]);
    const float scale = offsets[k] > kNoLength ? factor * inverse : 0.0f;
    const float along = inner_product(row, slope, depth) * inverse * inverse;
    float* to = d_residual + k * depth;
    for (std::int64_t i = 0; i < depth; ++i) to[i] = scale * (slope[i] - along * row[i]);
    offsets[k] = inner_product(to, p.centroids + k * depth, depth);
  }
}

int Backward::run(std::int64_t item, float* memory) const {
  constexpr int W = PackF::kWidth;
  const NetvladProblem& p = problem_;
  const std::int64_t n = p.patches, m = p.clusters, depth = p.depth, valid = valid_patches(p, item);
  float *weights = memory, *slope = weights + m * ld_, *d_residual = slope + m * ld_;
  float* offsets = d_residual + round_up(m * depth, 16);
  if (!soft_assignment(p, item, weights, ld_, nullptr)) return kAggregateBadScores;
  split(item, d_residual, offsets);
  for (std::int64_t k = 0; k < m; ++k) {
    const float mass = mass_of(weights + k * ld_, valid);
    float* share = shares_ + (item * m + k) * depth;
    for (std::int64_t i = 0; i < depth; ++i) share[i] = -mass * d_residual[k * depth + i];
  }
  PatchGradients products(m, depth, p.feature_dtype);
  products.place(offsets + round_up(m, 16), d_residual, depth, 1);
  const auto weigh = [&](std::int64_t first, std::int64_t width, const float* g, float* column) {
    constexpr std::int64_t kColumns = PatchGradients::kColumns;
    alignas(64) float total[kColumns] = {};
    const std::int64_t end = round_up(valid, W) - first, held = end < width ? end : width;
    for (std::int64_t k = 0; k < m; ++k) {
      const float *from = weights + k * ld_ + first, *slopes = g + k * kColumns;
      for (std::int64_t j = 0; j < held; j += W) {
        const PackF weight = PackF::load(from + j);
        const PackF d = weight * (PackF::load(slopes + j) - PackF(offsets[k]));
        weight.store(column + k * kColumns + j);
        d.store(slope + k * ld_ + first + j);
        (PackF::load(total + j) + d).store(total + j);
      }
      for (std::int64_t j = held; j < width; j += W) PackF(0.0f).store(column + k * kColumns + j);
    }
    for (std::int64_t k = 0; k < m; ++k) {
      const float* from = weights + k * ld_ + first;
      float* to = slope + k * ld_ + first;
      for (std::int64_t j = 0; j < held; j += W)
        (PackF::load(to + j) - PackF::load(from + j) * PackF::load(total + j)).store(to + j);
    }
  };
  const PatchRows features{p.features, p.feature_dtype, item * depth * n, n, valid};
  products.run(features, gradients_.d_features, weigh);
  for (std::int64_t k = 0; k < m; ++k)
    store_patches(p.logit_dtype, slope + k * ld_, valid, n, gradients_.d_logits, (item * m + k) * n);
  return kAggregateDone;
}

int forward(const NetvladProblem& problem, const NetvladOutput& out) {
  return run_items(problem.batch, problem.num_threads, Forward(problem, out));
}

int backward(const NetvladProblem& problem, const NetvladGradients& gradients) {
  const std::int64_t size = problem.clusters * problem.depth;
  Scratch<float> shares(std::size_t(problem.batch * size));
  if (!shares) return kAggregateOutOfMemory;
  const Backward work(problem, gradients, shares.data());
  const int status = run_items(problem.batch, problem.num_threads, work);
  for (std::int64_t i = 0; i < size; ++i) gradients.d_centroids[i] = 0.0f;
  for (std::int64_t b = 0; b < problem.batch; ++b)
    for (std::int64_t i = 0; i < size; ++i) gradients.d_centroids[i] += shares[std::size_t(b * size + i)];
  return status;
}

}  // namespace

const NetvladAggregateKernels& netvlad_aggregate_kernels() {
  static constexpr NetvladAggregateKernels kernels{&forward, &backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
