// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// SALAD's optimal transport of one item (sinkhorn_item.h): clusters take 1, the dustbin n - m, patches
// give 1.
#pragma once

#include "cpu/aggregate_items.h"
#include "cpu/salad_aggregate.h"
#include "cpu/sinkhorn_item.h"

PYLOC_NAMESPACE_BEGIN

class SaladItem {
 public:
  static std::int64_t floats(std::int64_t m, std::int64_t n) {
    return SinkhornItem::floats(m + 1, n) + round_up(m + 1, 16) + round_up(n, 16);
  }
  SaladItem(const cpu::SaladProblem& p, std::int64_t item, float* memory)
      : patches_(p.num_columns ? p.num_columns[item] : p.patches),
        transport_(memory),
        row_mass_(memory + SinkhornItem::floats(p.clusters + 1, p.patches)),
        column_mass_(row_mass_ + round_up(p.clusters + 1, 16)) {
    const std::int64_t m = p.clusters, element = p.score_dtype == kFloat32 ? 4 : 2;
    for (std::int64_t i = 0; i < m; ++i) row_mass_[i] = 0.0f;
    for (std::int64_t j = 0; j < patches_; ++j) column_mass_[j] = 0.0f;
    row_mass_[m] = std::log(float(patches_ - m));
    input_ = {static_cast<const char*>(p.scores) + item * m * p.patches * element,
              p.score_dtype,
              p.patches,
              m,
              patches_,
              1,
              float(p.dustbin),
              row_mass_,
              m,
              column_mass_,
              patches_};
  }

  std::int64_t patches() const { return patches_; }
  std::int64_t ld() const { return transport_.ld(); }
  SinkhornItem& transport() { return transport_; }

  // The iterations; an AggregateStatus.
  int solve(std::int64_t iterations, const SinkhornHistory& history) {
    const bool good =
        transport_.start(input_) == cpu::kSinkhornDone && transport_.solve(iterations, 0.0f, history, 1) >= 0;
    return good ? cpu::kAggregateDone : cpu::kAggregateBadScores;
  }
  // P of the clusters (m, ld), zero beyond the item's patches.
  void plan(float* to) const {
    for (std::int64_t i = 0; i < input_.rows; ++i) transport_.plan_row(i, to + i * ld());
  }

 private:
  std::int64_t patches_;
  SinkhornItem transport_;
  float *row_mass_, *column_mass_;
  SinkhornInput input_;
};

PYLOC_NAMESPACE_END
