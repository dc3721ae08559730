// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cpu/gnc_entries.h"
#include "pyloc/gnc.h"

namespace {

std::vector<double> schedule(double high, double low, bool published = false) {
  double sigmas[pyloc::kMaxSigmas];
  const int count = pyloc::gnc_schedule(high, low, published, sigmas);
  return {sigmas, sigmas + count};
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12);
}

TEST(Gnc, Schedule) {
  expect_near(schedule(2.0, 0.6), {2.0, 1.0, 0.9, 0.8, 0.7, 0.6});
  expect_near(schedule(8.0, 0.6), {8.0, 4.0, 2.0, 1.0, 0.9, 0.8, 0.7, 0.6});
  expect_near(schedule(3.0, 0.65), {3.0, 2.0, 1.0, 0.9, 0.8, 0.7, 0.65});
  expect_near(schedule(0.6, 0.6), {0.6});
  expect_near(schedule(2.0, 0.6, true), {2.0, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6});
  expect_near(schedule(3000.0, 400.0, true), {2048.0, 1024.0, 512.0});
  EXPECT_EQ(schedule(11264.0, 0.2, true).size(), 30u);
  EXPECT_LE(schedule(1e4, 0.01).size(), std::size_t(pyloc::kMaxSigmas));
}

const pyloc::GncOptions kOptions{2.0, 0.6, 100, 0.1, 1e-5, 0};

TEST(Gnc, AdvancesWhenAStepGainsLittleAndStopsAtTheLastSigma) {
  auto state = pyloc::gnc_begin();
  EXPECT_EQ(pyloc::gnc_after_trial(state, kOptions, 2, -1.0, -2.0, 1.1, 0.1, 1.0), pyloc::kGncAccept);
  EXPECT_EQ(state.level, 0);
  EXPECT_EQ(pyloc::gnc_after_trial(state, kOptions, 2, -2.0, -2.01, 0.2, 0.19, 1.0), pyloc::kGncAdvance);
  EXPECT_EQ(state.level, 1);
  EXPECT_EQ(state.done, 0);
  EXPECT_EQ(pyloc::gnc_after_trial(state, kOptions, 2, -2.0, -2.000001, 0.1, 0.0, 1.0), pyloc::kGncAccept);
  EXPECT_EQ(state.done, 1);
  EXPECT_EQ(state.reason, pyloc::kGncConverged);
  EXPECT_EQ(state.iterations, 3);
}

TEST(Gnc, FiveRejectionsStopAtTheLastSigma) {
  auto state = pyloc::gnc_begin();
  double last = state.lambda;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(pyloc::gnc_after_trial(state, kOptions, 1, -1.0, -0.5, 0.0, 0.5, 1.0), pyloc::kGncReject);
    EXPECT_GT(state.lambda, last);
    last = state.lambda;
    EXPECT_EQ(state.done, 0);
  }
  pyloc::gnc_after_trial(state, kOptions, 1, -1.0, -0.5, 0.0, 0.5, 1.0);
  EXPECT_EQ(state.done, 1);
  EXPECT_EQ(state.reason, pyloc::kGncStalled);
}

TEST(Gnc, ARejectionWithNothingLeftToGainMovesOn) {
  auto state = pyloc::gnc_begin();
  EXPECT_EQ(pyloc::gnc_after_trial(state, kOptions, 2, -1.0, -1.0, 0.0, 0.0, 1e-9), pyloc::kGncSkip);
  EXPECT_EQ(state.level, 1);
  const double nan = std::nan("");
  EXPECT_EQ(pyloc::gnc_after_trial(state, kOptions, 2, -1.0, nan, 0.0, 0.0, 1.0), pyloc::kGncReject);
}

TEST(Gnc, IterationsAreBounded) {
  auto options = kOptions;
  options.max_iterations = 1;
  auto state = pyloc::gnc_begin();
  pyloc::gnc_after_trial(state, options, 3, -1.0, -2.0, 1.0, 0.0, 1.0);
  EXPECT_EQ(state.done, 1);
  EXPECT_EQ(state.reason, pyloc::kGncMaxIterations);
}

TEST(Gnc, DampedStepSolvesAndRefuses) {
  double packed[21], b[6], d[6], predicted = 0.0;
  for (int i = 0, k = 0; i < 6; ++i)
    for (int j = 0; j <= i; ++j, ++k) packed[k] = i == j ? 2.0 + i : 0.1;
  for (int i = 0; i < 6; ++i) b[i] = 1.0 + i;
  ASSERT_TRUE(pyloc::damped_step(packed, b, 0.0, false, d, &predicted));
  for (int i = 0; i < 6; ++i) {
    double sum = 0.0;
    for (int j = 0; j < 6; ++j) sum += (i == j ? 2.0 + i : 0.1) * d[j];
    EXPECT_NEAR(sum, b[i], 1e-9);
  }
  EXPECT_GT(predicted, 0.0);
  for (double& a : packed) a = 0.0;
  EXPECT_FALSE(pyloc::damped_step(packed, b, 1e-3, false, d, &predicted));
  for (double& a : packed) a = std::nan("");
  EXPECT_FALSE(pyloc::damped_step(packed, b, 1e-3, false, d, &predicted));
}

TEST(Gnc, CurvatureIsTheHessianOfTheEnergyAndNeverNegative) {
  const double sigma = 0.9, px = 0.3, py = -0.2, step = 1e-4;
  const double cells[4][3] = {{0, 0, 3.0}, {1, 0, 2.0}, {0, -1, 1.5}, {-1, 0, 0.5}};
  const auto energy = [&](double x, double y) {
    double sum = 0.0;
    for (const auto& c : cells) {
      const double r2 = (c[0] - x) * (c[0] - x) + (c[1] - y) * (c[1] - y);
      sum -= c[2] * std::exp(-r2 / (2 * sigma * sigma)) * pyloc::gnc_density(sigma);
    }
    return sum;
  };
  pyloc::MapSums<double> s{};
  pyloc::MapMoments<double> m{};
  const double exponent = pyloc::gnc_exponent(sigma);
  for (const auto& c : cells)
    pyloc::add_moments(m, c[0] - px, c[1] - py, pyloc::add_entry(s, c[0] - px, c[1] - py, c[2], exponent));
  EXPECT_NEAR(-s.mass * pyloc::gnc_density(sigma), energy(px, py), 1e-12);
  double h[3];
  pyloc::map_curvature(s, m, sigma, h);
  const double hxx = (energy(px + step, py) - 2 * energy(px, py) + energy(px - step, py)) / (step * step);
  const double hyy = (energy(px, py + step) - 2 * energy(px, py) + energy(px, py - step)) / (step * step);
  EXPECT_NEAR(h[0], hxx, 1e-5);
  EXPECT_NEAR(h[2], hyy, 1e-5);
  // Far from its only cell the energy is concave along r: projected away.
  s = {};
  m = {};
  pyloc::add_moments(m, 3.0, 0.0, pyloc::add_entry(s, 3.0, 0.0, 5.0, exponent));
  pyloc::map_curvature(s, m, sigma, h);
  EXPECT_GE(h[0], 0.0);
  EXPECT_LT(h[0], 1e-12);
  EXPECT_GE(h[0] * h[2] - h[1] * h[1], -1e-20);
}

TEST(Gnc, SimdSumsMatchPlainOnesForEveryLengthAndPlace) {
  std::mt19937 random(5);
  std::vector<std::int64_t> row_ptr{0};
  std::vector<std::int16_t> xy;
  std::vector<float> gain;
  std::uniform_real_distribution<float> level(0.1f, 8.0f);
  for (int n = 0; n < 60; ++n) {  // lengths 0 ... 177, dense and thin
    int left = 3 * n;
    for (int cell = 0; cell < 40 * 30 && left > 0; ++cell) {
      if (int(random() % (40 * 30 - cell)) >= left) continue;
      --left;
      xy.push_back(std::int16_t(cell % 40));
      xy.push_back(std::int16_t(cell / 40));
      gain.push_back(level(random));
    }
    row_ptr.push_back(std::int64_t(gain.size()));
  }
  const pyloc::LossMapsView maps{60,  row_ptr.data(), xy.data(), gain.data(), nullptr, 40, 30, 40, 30,
                                 7.0, nullptr};
  std::vector<std::int16_t> first_rows(
      std::size_t(pyloc::index_capacity(maps.row_ptr[maps.count], maps.count)));
  for (int n = 0; n < 60; ++n) pyloc::index_blocks(maps, n, first_rows.data());
  for (const double sigma : {0.6, 1.0, 4.0})
    for (int n = 0; n < 60; ++n) {
      const double px = double(random() % 4400) / 100.0 - 2.0, py = double(random() % 3400) / 100.0 - 2.0;
      pyloc::MapSums<double> slow{};
      pyloc::MapMoments<double> moments{}, fast_moments{};
      for (auto i = row_ptr[std::size_t(n)]; i < row_ptr[std::size_t(n) + 1]; ++i) {
        const double rx = xy[std::size_t(2 * i)] - px, ry = xy[std::size_t(2 * i + 1)] - py;
        const double e =
            pyloc::add_entry(slow, rx, ry, double(gain[std::size_t(i)]), pyloc::gnc_exponent(sigma));
        pyloc::add_moments(moments, rx, ry, e);
      }
      const auto window = pyloc::window_around(maps, first_rows.data(), n, px, py, sigma);
      const auto fast = pyloc::map_sums(maps, window, sigma);
      const auto full = pyloc::map_moments(maps, window, sigma, fast_moments);
      const double tolerance = 2e-3 * sigma * sigma;  // cells beyond the reach
      EXPECT_NEAR(fast.mass, slow.mass, tolerance);
      EXPECT_NEAR(fast.x, slow.x, 8 * tolerance * sigma);
      EXPECT_NEAR(fast.y, slow.y, 8 * tolerance * sigma);
      EXPECT_EQ(fast.mass, full.mass);
      EXPECT_NEAR(fast_moments.yy, moments.yy, 40 * tolerance * sigma * sigma);
    }
}

}  // namespace
