// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The iteration of sinkhorn_item.h in the log domain: for scores and masses whose range exp does not hold.
// Two exponentials per entry and iteration. A lies in the memory of K, its padding -inf.
#pragma once

#include "cpu/sinkhorn_item.h"

PYLOC_NAMESPACE_BEGIN

class SinkhornLogDomain {
 public:
  explicit SinkhornLogDomain(SinkhornItem& item) : it_(item) {}

  std::int64_t solve(std::int64_t iterations, float tolerance, const SinkhornHistory& history) {
    for (std::int64_t c = 0; c < it_.ld_; ++c) it_.v_[c] = it_.log_b_[c] > kNothing ? 0.0f : kNothing;
    std::int64_t t = 0;
    for (; t < iterations; ++t) {
      for (std::int64_t i = 0; i < it_.m_; ++i) it_.before_[i] = row_potential(i);
      if (t > 0 && tolerance > 0.0f && settled(tolerance)) break;
      std::memcpy(it_.u_, it_.before_, sizeof(float) * std::size_t(it_.m_));
      update_columns();
      if (history.u) it_.keep(t, history);
    }
    return t;
  }

 private:
  static constexpr int W = PackF::kWidth;
  const float* row(std::int64_t i) const { return it_.kernel_ + i * it_.ld_; }

  // log a_i - LSE_j(A_ij + v_j).
  float row_potential(std::int64_t i) const {
    if (!(it_.log_a_[i] > kNothing)) return kNothing;
    const float* a = row(i);
    PackF top(kNothing), sum(0.0f);
    for (std::int64_t c = 0; c < it_.ld_; c += W)
      top = max_(PackF::load(a + c) + PackF::load(it_.v_ + c), top);
    const float peak = reduce_max(top);
    if (!(peak > kNothing)) return kNothing;
    for (std::int64_t c = 0; c < it_.ld_; c += W)
      sum = sum + exp_below_(PackF::load(a + c) + PackF::load(it_.v_ + c) - PackF(peak));
    return (it_.log_a_[i] - peak) - std::log(reduce_add(sum));
  }

  // v_j = log b_j - LSE_i(A_ij + u_i).
  void update_columns() const {
    float *peak = it_.beta_, *sum = it_.sums_;
    for (std::int64_t c = 0; c < it_.ld_; ++c) peak[c] = kNothing, sum[c] = 0.0f;
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      const float* a = row(i);
      const PackF u(it_.u_[i]);
      for (std::int64_t c = 0; c < it_.ld_; c += W)
        max_(PackF::load(a + c) + u, PackF::load(peak + c)).store(peak + c);
    }
    for (std::int64_t c = 0; c < it_.ld_; ++c) peak[c] = peak[c] > kNothing ? peak[c] : 0.0f;
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      const float* a = row(i);
      const PackF u(it_.u_[i]);
      for (std::int64_t c = 0; c < it_.ld_; c += W)
        (PackF::load(sum + c) + exp_below_(PackF::load(a + c) + u - PackF::load(peak + c))).store(sum + c);
    }
    for (std::int64_t c = 0; c < it_.ld_; c += W) {
      const PackF s = PackF::load(sum + c), more = PackF::load(it_.log_b_ + c) - PackF::load(peak + c);
      const PackMask<float> some = s > 0.0f;
      select(some, more - log_(select(some, s, PackF(1.0f))), PackF(kNothing)).store(it_.v_ + c);
    }
  }

  // Row sums of P are a_i exp(u_i - the next u_i).
  bool settled(float tolerance) const {
    float error = 0.0f, top = kNothing;
    for (std::int64_t i = 0; i < it_.m_; ++i) top = it_.log_a_[i] > top ? it_.log_a_[i] : top;
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      if (!(it_.u_[i] > kNothing)) continue;
      const float gap = std::exp(it_.log_a_[i] - top) * std::fabs(std::expm1(it_.u_[i] - it_.before_[i]));
      error = gap > error ? gap : error;
    }
    return error <= tolerance;
  }

  SinkhornItem& it_;
};

PYLOC_NAMESPACE_END
