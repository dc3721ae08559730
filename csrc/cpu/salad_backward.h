// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gradients of SALAD's descriptor, an item at a time. From the descriptor through both normalisations to the
// sums V (unit_parts.h); with G = dV F the gradient of ln P is P G, which goes back through the iterations in
// sinkhorn_adjoint.h, that of the features dV P. The dustbin's score moves nothing
// (reference/salad_aggregate.py): its gradient is 0.
#pragma once

#include "cpu/salad_aggregate.h"
#include "cpu/salad_item.h"
#include "cpu/sinkhorn_adjoint.h"
#include "cpu/unit_parts.h"

PYLOC_NAMESPACE_BEGIN

class SaladBackward {
 public:
  SaladBackward(const cpu::SaladProblem& p, const cpu::SaladGradients& g) : problem_(p), gradients_(g) {}
  std::int64_t slot_floats() const {
    Memory unused;
    return place(nullptr, unused);
  }
  int run(std::int64_t item, float* memory) const;

 private:
  struct Memory {
    float *transport, *adjoint, *products;
    float *u, *v;                  // (T, m + 1), (T, n)
    float *plan, *slope;           // (m, ld), and P G (rows of the transport, ld)
    float *sums, *lengths, *dots;  // dV (l, m), |V_k| (m), <V_k, d_k> (m)
  };
  std::int64_t place(float* memory, Memory& to) const;
  void split(std::int64_t item, const Memory& at) const;
  void multiply(std::int64_t item, const SaladItem& t, const Memory& at) const;

  const cpu::SaladProblem& problem_;
  const cpu::SaladGradients& gradients_;
};

// Where everything lies; the floats that it takes.
inline std::int64_t SaladBackward::place(float* memory, Memory& to) const {
  const std::int64_t m = problem_.clusters, n = problem_.patches, T = problem_.iterations;
  const std::int64_t ld = SinkhornItem::padded_columns(n);
  std::int64_t used = 0;
  const auto take = [&](std::int64_t floats) {
    float* at = memory ? memory + used : nullptr;
    used += round_up(floats, 16);
    return at;
  };
  to.transport = take(SaladItem::floats(m, n));
  to.adjoint = take(SinkhornAdjoint::floats(m + 1, n, T));
  to.products = take(PatchGradients(m, problem_.depth, problem_.feature_dtype).floats());
  to.u = take(T * (m + 1));
  to.v = take(T * n);
  to.plan = take(m * ld);
  to.slope = take(SinkhornItem::padded_rows(m + 1) * ld);
  to.sums = take(problem_.depth * m);
  to.lengths = take(m);
  to.dots = take(m);
  return used;
}

// dV and the gradient of the token.
inline void SaladBackward::split(std::int64_t item, const Memory& at) const {
  const std::int64_t m = problem_.clusters, l = problem_.depth, t = problem_.token_depth;
  const float* sums = gradients_.aggregate + item * l * m;
  const float* d = gradients_.d_descriptor + item * (t + l * m);
  column_products(sums, sums, l, m, at.lengths);
  float squares = lengths_of(at.lengths, m), token_length = 0.0f;
  float* token = t ? gradients_.d_token + item * t : nullptr;
  if (t) {
    load_floats(problem_.token_dtype, problem_.token, item * t, t, token);
    token_length = std::sqrt(inner_product(token, token, t));
    squares += unit_square(token_length);
  }
  const float factor = inverse_length(std::sqrt(squares));
  if (t) {
    const float inverse = inverse_length(token_length),
                scale = token_length > kNoLength ? factor * inverse : 0;
    const float along = inner_product(token, d, t) * inverse * inverse;
    for (std::int64_t i = 0; i < t; ++i) token[i] = scale * (d[i] - along * token[i]);
  }
  d += t;
  column_products(sums, d, l, m, at.dots);
  for (std::int64_t k = 0; k < m; ++k) {
    const float inverse = inverse_length(at.lengths[k]);
    at.dots[k] *= inverse * inverse;
    at.lengths[k] = at.lengths[k] > kNoLength ? factor * inverse : 0.0f;
  }
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t k = 0; k < m; ++k)
      at.sums[i * m + k] = at.lengths[k] * (d[i * m + k] - at.dots[k] * sums[i * m + k]);
}

// dF, and P G.
inline void SaladBackward::multiply(std::int64_t item, const SaladItem& t, const Memory& at) const {
  const std::int64_t m = problem_.clusters, l = problem_.depth, n = problem_.patches, ld = t.ld();
  for (std::int64_t i = m; i < SinkhornItem::padded_rows(m + 1); ++i)
    std::memset(at.slope + i * ld, 0, sizeof(float) * std::size_t(ld));
  PatchGradients products(m, l, problem_.feature_dtype);
  products.place(at.products, at.sums, 1, m);
  const PatchRows features{problem_.features, problem_.feature_dtype, item * l * n, n, t.patches()};
  const auto weigh = [&](std::int64_t first, std::int64_t width, const float* g, float* weights) {
    constexpr std::int64_t W = PackF::kWidth, kColumns = PatchGradients::kColumns;
    const std::int64_t held = ld - first < width ? ld - first : width;
    const bool last = first + kColumns >= t.patches();
    for (std::int64_t k = 0; k < m; ++k) {
      const float *plan = at.plan + k * ld + first, *slope = g + k * kColumns;
      float *to = at.slope + k * ld + first, *row = weights + k * kColumns;
      for (std::int64_t j = 0; j < held; j += W) {
        const PackF weight = PackF::load(plan + j);
        weight.store(row + j);
        (weight * PackF::load(slope + j)).store(to + j);
      }
      for (std::int64_t j = held; j < width; j += W) PackF(0.0f).store(row + j);
      for (std::int64_t j = held; last && j < ld - first; j += W) PackF(0.0f).store(to + j);
    }
  };
  products.run(features, gradients_.d_features, weigh);
}

inline int SaladBackward::run(std::int64_t item, float* memory) const {
  const std::int64_t m = problem_.clusters, n = problem_.patches;
  Memory at;
  place(memory, at);
  SaladItem t(problem_, item, at.transport);
  const SinkhornHistory history{at.u, at.v, m + 1, t.patches(), m, t.patches()};
  const int status = t.solve(problem_.iterations, history);
  if (status != cpu::kAggregateDone) return status;
  t.plan(at.plan);
  split(item, at);
  multiply(item, t, at);
  SinkhornAdjoint adjoint(t.transport(), at.adjoint, problem_.iterations);
  if (!adjoint.unrolled(at.slope, problem_.iterations, history, 1, true)) return cpu::kAggregateBadScores;
  for (std::int64_t i = 0; i < m; ++i)
    store_patches(problem_.score_dtype, at.slope + i * t.ld(), t.patches(), n, gradients_.d_scores,
                  (item * m + i) * n);
  return cpu::kAggregateDone;
}

PYLOC_NAMESPACE_END
