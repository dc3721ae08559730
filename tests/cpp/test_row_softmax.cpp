// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cpu/rank_select.h"
#include "cpu/row_softmax.h"

// Compiled for the baseline; the other instruction sets are covered through Python.
namespace {

using namespace pyloc;

std::vector<float> normal_values(std::size_t count, unsigned seed, float spread) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

TEST(RowSoftmax, ExponentialIsAccurateAndExactAtThePeak) {
  double worst = 0;
  for (float x = -125.9f; x <= 0.0f; x += 0.00293f)
    worst = std::max(worst, std::fabs(exp2_nonpositive_(PackF(x))[0] / std::exp2(double(x)) - 1));
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(exp2_nonpositive_(PackF(0.0f))[0], 1.0f);
  EXPECT_LT(exp2_nonpositive_(PackF(-1e30f))[0], 1.2e-38f);
}

TEST(RowSoftmax, SumAndEntropyDoNotDependOnHowTheCellsArrive) {
  for (const float spread : {0.1f, 3.0f, 60.0f}) {
    const auto values = normal_values(5000, 7, spread);
    const float peak = *std::max_element(values.begin(), values.end());
    double sum = 0, moment = 0;
    for (float v : values) {
      const double e = std::exp(double(v) - peak);
      sum += e;
      moment += e * (double(v) - peak);
    }
    for (const int run : {1, 7, 100, 768, 5000}) {
      SoftmaxRow row = empty_softmax_row();
      const float scale = 1.44269504f;
      for (int i = 0; i < 5000; i += run)
        visit_cells<true>(row, values.data() + i, std::min(run, 5000 - i), i, scale);
      EXPECT_EQ(row.peak, peak);
      EXPECT_EQ(row.cell, std::max_element(values.begin(), values.end()) - values.begin());
      EXPECT_NEAR(std::log(row.sum), std::log(sum), 2e-6);
      EXPECT_NEAR(row.moment * 0.6931471805599453 / row.sum, moment / sum, 2e-5 * (1 - moment / sum));
    }
  }
}

TEST(RowSoftmax, FirstOfEqualCells) {
  std::vector<float> values(100, 1.0f);
  values[37] = values[38] = values[99] = 2.0f;
  EXPECT_EQ(first_position(values.data(), 100, 2.0f), 37);
  EXPECT_EQ(first_position(values.data() + 39, 61, 2.0f), 60);
  EXPECT_EQ(largest_value(values.data(), 100), 2.0f);
}

float streamed_rank(const std::vector<float>& values, std::int64_t rank, int run) {
  std::vector<float> memory(rank_capacity(rank));
  RankList list{memory.data(), 0, -HUGE_VALF};
  float peak = -HUGE_VALF;
  for (std::size_t i = 0; i < values.size(); i += run) {
    const auto count = std::min<std::int64_t>(run, std::int64_t(values.size() - i));
    const float largest = largest_value(values.data() + i, count);
    peak = std::max(peak, largest);
    rank_visit(list, values.data() + i, count, rank, peak, largest);
  }
  return rank_result(list, rank, peak);
}

TEST(RankSelect, EqualsTheSortedValue) {
  auto gaussian = normal_values(20000, 3, 1.0f);
  auto coarse = gaussian;  // many equal values
  for (float& v : coarse) v = std::floor(v * 2.0f) / 2.0f;
  auto ascending = gaussian;
  std::sort(ascending.begin(), ascending.end());
  const std::vector<float> equal(20000, -3.5f);
  for (const auto& values : {gaussian, coarse, ascending, equal}) {
    auto sorted = values;
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    for (const std::int64_t rank : {1, 2, 50, 3000, 19999, 20000})
      for (const int run : {768, 1024}) EXPECT_EQ(streamed_rank(values, rank, run), sorted[rank - 1]) << rank;
  }
}

}  // namespace
