// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/salad_aggregate.h"

#include "cpu/salad_backward.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// One item at a time: its assignment, and a few rows of its features.
class Forward {
 public:
  Forward(const SaladProblem& p, const SaladOutput& out)
      : problem_(p), out_(out), ld_(round_up(p.patches, kRowUnit)) {}
  std::int64_t slot_floats() const {
    const std::int64_t m = problem_.clusters;
    return SaladItem::floats(m, problem_.patches) + (m + kDotBlock) * ld_ + round_up(m, 16);
  }
  int run(std::int64_t item, float* memory) const;

 private:
  bool write_descriptor(std::int64_t item, float* lengths) const;  // false: a part is not finite

  const SaladProblem& problem_;
  const SaladOutput& out_;
  std::int64_t ld_;
};

int Forward::run(std::int64_t item, float* memory) const {
  const SaladProblem& p = problem_;
  const std::int64_t m = p.clusters, n = p.patches, l = p.depth;
  SaladItem transport(p, item, memory);
  SinkhornHistory history{};
  if (out_.u) history = {out_.u + item * (m + 1), out_.v + item * n, p.batch * (m + 1), p.batch * n, m, n};
  const int status = transport.solve(p.iterations, history);
  if (status != kAggregateDone) return status;
  float *weights = memory + SaladItem::floats(m, n), *features = weights + m * ld_;
  transport.plan(weights);
  const PatchRows rows{p.features, p.feature_dtype, item * l * n, n, transport.patches()};
  sum_features(weights, m, transport.ld(), rows, l, features, out_.aggregate + item * l * m, m, 1);
  return write_descriptor(item, features + kDotBlock * ld_) ? kAggregateDone : kAggregateBadSums;
}

bool Forward::write_descriptor(std::int64_t item, float* lengths) const {
  const SaladProblem& p = problem_;
  const std::int64_t m = p.clusters, l = p.depth, t = p.token_depth;
  const float* sums = out_.aggregate + item * l * m;
  float* to = out_.descriptor + item * (t + l * m);
  column_products(sums, sums, l, m, lengths);
  float squares = lengths_of(lengths, m), token_length = 0.0f;
  if (t) {
    load_floats(p.token_dtype, p.token, item * t, t, to);
    token_length = std::sqrt(inner_product(to, to, t));
    squares += unit_square(token_length);
  }
  const float factor = inverse_length(std::sqrt(squares));
  for (std::int64_t i = 0; i < t; ++i) to[i] *= factor * inverse_length(token_length);
  for (std::int64_t k = 0; k < m; ++k) lengths[k] = factor * inverse_length(lengths[k]);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t k = 0; k < m; ++k) to[t + i * m + k] = sums[i * m + k] * lengths[k];
  return isfinite_(squares);
}

int forward(const SaladProblem& problem, const SaladOutput& out) {
  return run_items(problem.batch, problem.num_threads, Forward(problem, out));
}

int backward(const SaladProblem& problem, const SaladGradients& gradients) {
  return run_items(problem.batch, problem.num_threads, SaladBackward(problem, gradients));
}

}  // namespace

const SaladAggregateKernels& salad_aggregate_kernels() {
  static constexpr SaladAggregateKernels kernels{&forward, &backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
