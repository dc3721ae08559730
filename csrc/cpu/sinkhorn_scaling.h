// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The iteration of sinkhorn_item.h in the scaling domain.
#pragma once

#include "cpu/sinkhorn_item.h"

PYLOC_NAMESPACE_BEGIN

// alpha = a / (K beta) and the blocks' column sums of alpha K; the first time K is built on the way. False
// when a score is NaN or +infinity.
inline bool SinkhornItem::update_rows(std::int64_t t, int threads) {
  int bad = 0;
  for_blocks(t, threads, [&](std::int64_t b) {
    float* sums = block_sums(partial_, b);
    for (std::int64_t i = b * kSweepBlock; i < block_end(b); i += kSweepRows) {
      if (t == 0)
        for (int r = 0; r < kSweepRows; ++r)
          if (!build_row(i + r)) return __atomic_store_n(&bad, 1, __ATOMIC_RELAXED);
      const float* k = kernel_ + i * ld_;
      row_products(k, ld_, beta_, dot_ + i);
      for (int r = 0; r < kSweepRows; ++r)
        alpha_[i + r] = dot_[i + r] > 0.0f ? a_[i + r] / dot_[i + r] : 0.0f;
      add_rows(k, ld_, alpha_ + i, sums);
    }
  });
  return bad == 0;
}

inline bool SinkhornItem::rows_in_reach(bool first) {
  float least = HUGE_VALF, most = 0.0f;
  for (std::int64_t i = 0; i < m_; ++i) {
    if (!(a_[i] > 0.0f)) continue;
    if (!(dot_[i] > 0.0f)) {
      if (!first || row_carries(i, sums_)) return false;
      a_[i] = 0.0f;
      log_a_[i] = kNothing;
      continue;
    }
    least = dot_[i] < least ? dot_[i] : least;
    most = alpha_[i] > most ? alpha_[i] : most;
  }
  top_alpha_ = most;
  return top_beta_ * float(n_) <= kReach * least && most < HUGE_VALF;
}

inline bool SinkhornItem::update_columns(bool first) {
  PackF least(HUGE_VALF), most(0.0f);
  for (std::int64_t c = 0; c < ld_; c += PackF::kWidth) {
    const PackF sum = column_sum(partial_, c), b = PackF::load(b_ + c);
    const PackF beta = select(sum > 0.0f, b / sum, PackF(0.0f));
    sum.store(sums_ + c);
    beta.store(beta_ + c);
    least = min_(select(b > 0.0f, sum, PackF(HUGE_VALF)), least);
    most = max_(beta, most);
  }
  float smallest = -reduce_max(-least);
  if (!(smallest > 0.0f)) {
    if (!first) return false;
    smallest = HUGE_VALF;
    for (std::int64_t j = 0; j < n_; ++j) {
      if (!(b_[j] > 0.0f)) continue;
      if (sums_[j] > 0.0f) {
        smallest = sums_[j] < smallest ? sums_[j] : smallest;
      } else {
        if (column_carries(j)) return false;
        b_[j] = 0.0f;
        log_b_[j] = kNothing;
      }
    }
  }
  top_beta_ = reduce_max(most);
  return top_alpha_ * float(m_) <= kReach * smallest && top_beta_ < HUGE_VALF;
}

// The row sums of P are the last alpha times the new K beta.
inline bool SinkhornItem::settled(float tolerance) const {
  float error = 0.0f, largest = 0.0f;
  for (std::int64_t i = 0; i < m_; ++i) {
    const float gap = std::fabs(before_[i] * dot_[i] - a_[i]);
    error = gap > error ? gap : error;
    largest = a_[i] > largest ? a_[i] : largest;
  }
  return error <= tolerance * largest;
}

// ln of positive, normal numbers; -inf for 0.
PYLOC_INLINE PackF log_or_nothing(PackF x, PackF more) {
  const PackMask<float> some = x > 0.0f;
  return select(some, log_(select(some, x, PackF(1.0f))) + more, PackF(kNothing));
}

inline void SinkhornItem::take_logs() {
  const PackF shift(shift_);
  for (std::int64_t i = 0; i < m_; i += PackF::kWidth)
    log_or_nothing(PackF::load(alpha_ + i), shift - PackF::load(peak_ + i)).store(u_ + i);
  for (std::int64_t c = 0; c < ld_; c += PackF::kWidth)
    log_or_nothing(PackF::load(beta_ + c), PackF(0.0f)).store(v_ + c);
}

// The number of iterations that ran; -1: a score refused; 0: out of reach.
inline std::int64_t SinkhornItem::iterate(std::int64_t iterations, float tolerance,
                                          const SinkhornHistory& history, int threads) {
  for (std::int64_t c = 0; c < ld_; ++c) beta_[c] = b_[c] > 0.0f ? 1.0f : 0.0f;
  for (std::int64_t i = 0; i < padded_rows(m_); ++i) alpha_[i] = before_[i] = dot_[i] = peak_[i] = 0.0f;
  top_beta_ = 1.0f;
  std::int64_t t = 0;
  for (; t < iterations; ++t) {
    exchange_alpha();
    if (!update_rows(t, threads)) return -1;
    if (t > 0 && tolerance > 0.0f && settled(tolerance)) {
      exchange_alpha();
      break;
    }
    if (!rows_in_reach(t == 0) || !update_columns(t == 0)) return 0;
    if (history.u) {
      take_logs();
      keep(t, history);
    }
  }
  take_logs();
  return t;
}

inline std::int64_t SinkhornItem::solve(std::int64_t iterations, float tolerance,
                                        const SinkhornHistory& history, int threads) {
  std::int64_t ran = 0;
  if (scaling_) ran = iterate(iterations, tolerance, history, threads);
  if (ran == 0) {
    if (!build(false)) return -1;
    ran = SinkhornLogDomain(*this).solve(iterations, tolerance, history);
  }
  if (ran > 0 && history.u) repeat(ran, iterations, history);
  return ran;
}

inline void SinkhornItem::keep(std::int64_t t, const SinkhornHistory& history) const {
  const auto spread = [](const float* from, std::int64_t valid, std::int64_t size, bool dustbin, float* to) {
    std::memcpy(to, from, sizeof(float) * std::size_t(valid));
    for (std::int64_t i = valid; i < size; ++i) to[i] = kNothing;
    if (dustbin) to[size] = from[valid];
  };
  spread(u_, in_.rows, history.m, in_.dustbin_sides & 1, history.u + t * history.u_stride);
  spread(v_, in_.columns, history.n, in_.dustbin_sides >> 1, history.v + t * history.v_stride);
}

// After the last iteration that ran its potentials stand again.
inline void SinkhornItem::repeat(std::int64_t ran, std::int64_t iterations,
                                 const SinkhornHistory& history) const {
  for (std::int64_t t = ran; t < iterations; ++t) keep(t, history);
}

inline bool SinkhornItem::row_carries(std::int64_t i, float* scratch) const {
  in_.read(i, ld_, scratch);
  for (std::int64_t j = 0; j < n_; ++j)
    if (b_[j] > 0.0f && scratch[j] > kNothing) return true;
  return false;
}
inline bool SinkhornItem::column_carries(std::int64_t j) const {
  for (std::int64_t i = 0; i < m_; ++i)
    if (a_[i] > 0.0f && in_.at(i, j) > kNothing) return true;
  return false;
}

PYLOC_NAMESPACE_END
