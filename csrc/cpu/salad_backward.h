// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gradients of SALAD's descriptor, an item at a time. From the descriptor through both normalisations to the
// sums V (unit_parts.h); with G = dV F the gradient of ln P is P G, that of the features dV P. The iterations
// are taken back in scalings: with dv the gradient of v = ln y and du that of u,
//   q = y dv,   du_i -= x_i sum_j K_ij q_j,   p_i = x_i du_i / a_i,   dv_j before = -y_j sum_i K_ij p_i,
// one sweep over K per iteration, and dS = P G - K sum over iterations of (x q + p y before), a product of 2
// T columns. The dustbin's score moves nothing (reference/salad_aggregate.py): its gradient is 0.
#pragma once

#include "cpu/salad_aggregate.h"
#include "cpu/salad_transport.h"
#include "cpu/unit_parts.h"

PYLOC_NAMESPACE_BEGIN

class SaladBackward {
 public:
  SaladBackward(const cpu::SaladProblem& p, const cpu::SaladGradients& g)
      : problem_(p), gradients_(g), ld_(round_up(p.patches, PatchGradients::kColumns)) {}
  std::int64_t slot_floats() const {
    Memory unused;
    return transport_floats() + place(nullptr, unused) +
           PatchGradients(problem_.clusters, problem_.depth).floats();
  }
  int run(std::int64_t item, float* memory) const;

 private:
  // Working memory of an item besides that of the transport and of the products.
  struct Memory {
    float* slope;            // (m, ld): G, then P G
    float *sums, *lengths;   // dV (l, m) and |V_k| (m)
    float *du, *dv, *p, *q;  // (m, W) lanes, (ld), (T, m + 1), (T, ld)
  };
  std::int64_t transport_floats() const {
    return round_up(SaladTransport::floats(problem_.clusters, ld_, problem_.iterations), 16);
  }
  std::int64_t place(float* memory, Memory& to) const;
  void split(std::int64_t item, const Memory& at) const;
  void multiply(std::int64_t item, const SaladTransport& t, const Memory& at, float* memory) const;
  void take_back(const SaladTransport& t, const Memory& at) const;
  void write_scores(std::int64_t item, const SaladTransport& t, const Memory& at) const;

  const cpu::SaladProblem& problem_;
  const cpu::SaladGradients& gradients_;
  std::int64_t ld_;
};

inline std::int64_t SaladBackward::place(float* memory, Memory& to) const {
  const std::int64_t m = problem_.clusters, l = problem_.depth, T = problem_.iterations;
  std::int64_t used = 0;
  const auto take = [&](std::int64_t floats) {
    float* at = memory ? memory + used : nullptr;
    used += round_up(floats, 16);
    return at;
  };
  to.slope = take(round_up(m, kPanelRows) * ld_);
  to.sums = take(l * m);
  to.lengths = take(m);
  to.du = take(m * PackF::kWidth);
  to.dv = take(ld_);
  to.p = take(T * SaladTransport::x_floats(m));
  to.q = take(T * ld_);
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
  float* dot = at.p;  // free until the iterations are taken back
  column_products(sums, d, l, m, dot);
  for (std::int64_t k = 0; k < m; ++k) {
    const float inverse = inverse_length(at.lengths[k]);
    dot[k] *= inverse * inverse;
    at.lengths[k] = at.lengths[k] > kNoLength ? factor * inverse : 0.0f;
  }
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t k = 0; k < m; ++k)
      at.sums[i * m + k] = at.lengths[k] * (d[i * m + k] - dot[k] * sums[i * m + k]);
}

// dF, P G in place of G, and the sums of P G by rows and columns, du and dv.
inline void SaladBackward::multiply(std::int64_t item, const SaladTransport& t, const Memory& at,
                                    float* memory) const {
  constexpr int W = PackF::kWidth;
  const std::int64_t m = problem_.clusters, l = problem_.depth, n = problem_.patches;
  const float *given = t.row_scaling(t.iterations - 1), *taken = t.column_scaling(t.iterations);
  const auto weigh = [&](std::int64_t j, const auto& packed) {
    if (j >= t.length()) {  // K holds nothing there
      for (std::int64_t k = 0; k < m; ++k) PackF(0.0f).store(packed(k));
      return;
    }
    const PackF y = PackF::load(taken + j);
    PackF total(0.0f);
    for (std::int64_t k = 0; k < m; ++k) {
      const PackF weight = PackF(given[k]) * PackF::load(t.row(k) + j) * y;
      weight.store(packed(k));
      float* slope = at.slope + k * ld_ + j;
      const PackF d = weight * PackF::load(slope);
      d.store(slope);
      total = total + d;
      (PackF::load(at.du + k * W) + d).store(at.du + k * W);
    }
    total.store(at.dv + j);
  };
  PatchGradients products(m, l);
  products.place(memory, at.sums, 1, m);
  for (std::int64_t i = 0; i < m * W; ++i) at.du[i] = 0.0f;
  const PatchRows features{problem_.features, problem_.feature_dtype, item * l * n, n, t.columns};
  float* d_features = gradients_.d_features + item * l * n;
  for (std::int64_t first = 0; first < t.columns; first += PatchGradients::kColumns)
    products.run(features, first, at.slope, ld_, d_features, n, weigh);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = t.columns; j < n; ++j) d_features[i * n + j] = 0.0f;
}

inline void SaladBackward::take_back(const SaladTransport& t, const Memory& at) const {
  constexpr int W = PackF::kWidth;
  const std::int64_t n = t.length(), m = t.rows;
  const float dustbin_mass = float(t.columns - m);
  for (std::int64_t step = t.iterations - 1; step >= 0; --step) {
    const float *x = t.row_scaling(step), *y = t.column_scaling(step + 1), *before = t.column_scaling(step);
    float *p = at.p + step * SaladTransport::x_floats(m), *q = at.q + step * ld_;
    for (std::int64_t j = 0; j < n; j += W) (PackF::load(y + j) * PackF::load(at.dv + j)).store(q + j);
    p[m] = -x[m] * x[m] * sum_of(q, n) / dustbin_mass;
    for (std::int64_t j = 0; j < n; j += W) PackF(p[m]).store(at.dv + j);
    const bool last = step + 1 == t.iterations;
    sweep(t.kernel, ld_, m, n, q, at.dv, [&](std::int64_t i, float sum) {
      const float du = last ? reduce_add(PackF::load(at.du + i * W)) : 0.0f;
      return p[i] = x[i] * (du - x[i] * sum);
    });
    for (std::int64_t j = 0; j < n; j += W)
      (-(PackF::load(before + j) * PackF::load(at.dv + j))).store(at.dv + j);
  }
}

inline void SaladBackward::write_scores(std::int64_t item, const SaladTransport& t, const Memory& at) const {
  constexpr int W = PackF::kWidth;
  const std::int64_t n = problem_.patches, stride = SaladTransport::x_floats(t.rows);
  for (std::int64_t i = 0; i < t.rows; ++i) {
    float *row = at.slope + i * ld_, *to = gradients_.d_scores + (item * t.rows + i) * n;
    for (std::int64_t j = 0; j < t.length(); j += W) {
      PackF sum(0.0f);
      for (std::int64_t step = 0; step < t.iterations; ++step) {
        const float x = t.row_scaling(step)[i], p = at.p[step * stride + i];
        sum = fma_(PackF(x), PackF::load(at.q + step * ld_ + j), sum);
        sum = fma_(PackF(p), PackF::load(t.column_scaling(step) + j), sum);
      }
      (PackF::load(row + j) - PackF::load(t.row(i) + j) * sum).store(row + j);
    }
    std::memcpy(to, row, sizeof(float) * std::size_t(t.columns));
    for (std::int64_t j = t.columns; j < n; ++j) to[j] = 0.0f;
  }
}

inline int SaladBackward::run(std::int64_t item, float* memory) const {
  const std::int64_t m = problem_.clusters, n = problem_.patches;
  const std::int64_t valid = problem_.num_columns ? problem_.num_columns[item] : n;
  const SaladTransport t(m, valid, ld_, problem_.iterations, memory);
  if (!t.form_kernel(problem_.score_dtype, problem_.scores, item * m * n, n)) return cpu::kAggregateBadScores;
  t.run();
  Memory at;
  float* rest = memory + transport_floats();
  rest += place(rest, at);
  split(item, at);
  multiply(item, t, at, rest);
  take_back(t, at);
  write_scores(item, t, at);
  return cpu::kAggregateDone;
}

PYLOC_NAMESPACE_END
