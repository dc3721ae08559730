// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "pyloc/loss_map.h"

namespace {

using pyloc::LossMapsView;

constexpr int kWidth = 23, kHeight = 17, kMaps = 5;

// Sparse maps and their dense gains.
struct Problem {
  std::vector<float> dense = std::vector<float>(kMaps * kHeight * kWidth, 0.0f);
  std::vector<std::int64_t> row_ptr{0};
  std::vector<std::int16_t> xy;
  std::vector<float> gain;

  explicit Problem(double share) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    for (int n = 0; n < kMaps; ++n) {
      for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) {
          const float value = uniform(random) + 0.1f;
          if (n == 2 || uniform(random) >= share) continue;  // map 2 stays empty
          dense[(n * kHeight + y) * kWidth + x] = value;
          xy.push_back(static_cast<std::int16_t>(x));
          xy.push_back(static_cast<std::int16_t>(y));
          gain.push_back(value);
        }
      row_ptr.push_back(static_cast<std::int64_t>(gain.size()));
    }
  }
  LossMapsView view() const {
    return {kMaps,   row_ptr.data(), xy.data(), gain.data(), nullptr, kWidth,
            kHeight, kWidth,         kHeight,   6.0,         nullptr};
  }
  double at(int n, int x, int y) const {
    const bool inside = x >= 0 && x < kWidth && y >= 0 && y < kHeight;
    return inside ? dense[(n * kHeight + y) * kWidth + x] : 0.0;
  }
  double expected(int n, double px, double py) const {
    const int x = static_cast<int>(std::floor(px)), y = static_cast<int>(std::floor(py));
    const double ax = px - x, ay = py - y;
    return (1 - ay) * ((1 - ax) * at(n, x, y) + ax * at(n, x + 1, y)) +
           ay * ((1 - ax) * at(n, x, y + 1) + ax * at(n, x + 1, y + 1));
  }
};

class LossMap : public ::testing::TestWithParam<double> {};

TEST_P(LossMap, BilinearGainMatchesTheDenseMap) {
  const Problem problem(GetParam());
  const LossMapsView maps = problem.view();
  for (int n = 0; n < kMaps; ++n)
    for (double y = -1.5; y < kHeight + 0.6; y += 0.25)
      for (double x = -1.5; x < kWidth + 0.6; x += 0.25) {
        ASSERT_NEAR(pyloc::bilinear_gain(maps, n, x, y), problem.expected(n, x, y), 1e-12);
        const float low = pyloc::bilinear_gain(maps, n, static_cast<float>(x), static_cast<float>(y));
        ASSERT_NEAR(low, problem.expected(n, x, y), 1e-6);
      }
}

TEST_P(LossMap, SlopeIsTheDerivative) {
  const Problem problem(GetParam());
  const LossMapsView maps = problem.view();
  const double step = 1e-6;
  for (double y = -0.93; y < kHeight; y += 0.71)
    for (double x = -0.89; x < kWidth; x += 0.67) {
      double slope[2];
      pyloc::bilinear_gain(maps, 1, x, y, slope);
      const auto value = [&](double dx, double dy) { return pyloc::bilinear_gain(maps, 1, x + dx, y + dy); };
      EXPECT_NEAR(slope[0], (value(step, 0) - value(-step, 0)) / (2 * step), 1e-6);
      EXPECT_NEAR(slope[1], (value(0, step) - value(0, -step)) / (2 * step), 1e-6);
    }
}

INSTANTIATE_TEST_SUITE_P(Shares, LossMap, ::testing::Values(0.0, 0.02, 0.5, 1.0));

TEST(LossMapLookup, PointsWithoutAPlaceHaveNoGain) {
  const Problem problem(1.0);
  const LossMapsView maps = problem.view();
  const double inf = std::numeric_limits<double>::infinity();
  for (const double bad : {std::nan(""), inf, -inf, 1e300, -1e300, -1.0, double(kWidth)}) {
    EXPECT_EQ(pyloc::bilinear_gain(maps, 0, bad, 3.0), 0.0);
    EXPECT_EQ(pyloc::bilinear_gain(maps, 0, 3.0, bad == kWidth ? double(kHeight) : bad), 0.0);
  }
}

TEST(LossMapLookup, LowerBoundFindsEveryCell) {
  const Problem problem(0.3);
  const LossMapsView maps = problem.view();
  const std::int64_t begin = maps.row_ptr[3], end = maps.row_ptr[4];
  for (std::int64_t i = begin; i < end; ++i)
    EXPECT_EQ(pyloc::lower_bound_cell(maps.xy, begin, end, pyloc::cell_key_at(maps.xy, i)), i);
  EXPECT_EQ(pyloc::lower_bound_cell(maps.xy, begin, end, pyloc::cell_key(0, 30000)), end);
  EXPECT_EQ(pyloc::lower_bound_cell(maps.xy, begin, begin, 0), begin);
}

}  // namespace
