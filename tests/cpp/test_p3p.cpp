// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/p3p.h"
#include "pyloc/p3p.h"

namespace {

using pyloc::Pose;
using pyloc::Vec3;

template <class T>
struct Problem {
  Vec3<T> bearings[3], points[3];
  Pose<double> cam_from_world;
};

template <class T>
Problem<T> random_problem(std::mt19937_64& generator, double field = 1.0) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(-1, 1);
  Problem<T> p;
  p.cam_from_world = {pyloc::so3_exp(Vec3<double>{normal(generator), normal(generator), normal(generator)}),
                      {uniform(generator), uniform(generator), uniform(generator)}};
  for (int i = 0; i < 3; ++i) {
    const Vec3<double> f{field * uniform(generator), field * uniform(generator), 1.0};
    const double depth = 3 + 2 * uniform(generator);
    const Vec3<double> X = transpose(p.cam_from_world.R) * (f * depth - p.cam_from_world.t);
    p.bearings[i] = {T(f.x), T(f.y), T(f.z)};
    p.points[i] = {T(X.x), T(X.y), T(X.z)};
  }
  return p;
}

template <class T>
double error(const Pose<T>& a, const Pose<double>& b) {
  double worst = std::max({std::fabs(a.t.x - b.t.x), std::fabs(a.t.y - b.t.y), std::fabs(a.t.z - b.t.z)});
  for (int i = 0; i < 9; ++i) worst = std::max(worst, std::fabs(a.R.m[i] - b.R.m[i]));
  return worst;
}

template <class T>
void expect_truth(double field, double share, double tolerance) {
  std::mt19937_64 generator(1);
  int found = 0;
  const int count = 20000;
  for (int trial = 0; trial < count; ++trial) {
    const Problem<T> p = random_problem<T>(generator, field);
    Pose<T> poses[4];
    const int n = pyloc::p3p(p.bearings, p.points, poses);
    ASSERT_LE(n, 4);
    double best = 1e9;
    for (int i = 0; i < n; ++i) best = std::min(best, error(poses[i], p.cam_from_world));
    found += best < tolerance;
  }
  EXPECT_GE(found, share * count);
}

TEST(P3p, FindsTheTruth) {
  expect_truth<double>(1.0, 0.9999, 1e-9);
  expect_truth<double>(0.1, 0.9999, 1e-8);
  expect_truth<float>(1.0, 0.998, 1e-3);
}

TEST(P3p, IsolatedRootOfTheDepressedCubic) {
  for (const double p : {-30.0, -3.0, -1.0, -1e-3, 1e-3, 0.2, 1.0, 40.0})
    for (const double q : {-1e3, -2.0, -0.3, -1e-4, 0.0, 1e-6, 0.4, 1.0, 77.0}) {
      const double t = pyloc::p3p_isolated_root(p, q), slope = 3 * t * t + p;
      EXPECT_LE(std::fabs(t * t * t + p * t + q), 1e-4 * (std::fabs(t * t * t) + std::fabs(p * t)))
          << p << " " << q;
      EXPECT_GT(slope, p < 0 ? -p : 0.0) << p << " " << q;  // beyond the outer turning point
    }
}

TEST(P3p, CubeRootEstimate) {
  for (double a = 0.2; a < 200; a *= 1.01) {
    EXPECT_NEAR(pyloc::cbrt_estimate_(a) / std::cbrt(a), 1.0, 0.04);
    EXPECT_NEAR(pyloc::cbrt_estimate_(static_cast<float>(a)) / std::cbrt(a), 1.0, 0.04);
  }
}

TEST(P3p, DegenerateInputHasNoSolution) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  std::mt19937_64 generator(2);
  const Problem<double> good = random_problem<double>(generator);
  std::vector<Problem<double>> bad(6, good);
  bad[0].points[2] = bad[0].points[0] + (bad[0].points[1] - bad[0].points[0]) * 3.0;  // a line
  bad[1].points[1] = bad[1].points[0];
  bad[2].bearings[0] = {0, 0, 0};
  bad[3].points[1].y = nan;
  bad[4].bearings[2].x = inf;
  bad[5].points[0].z = -inf;
  for (const auto& p : bad) {
    Pose<double> poses[4];
    EXPECT_EQ(pyloc::p3p(p.bearings, p.points, poses), 0);
    for (const auto& pose : poses)
      for (const double v : pose.R.m) EXPECT_EQ(v, 0.0);
  }
}

// The batch agrees with the scalar code whatever the instruction set, at every batch size.
TEST(P3p, BatchAgreesWithScalar) {
  std::mt19937_64 generator(3);
  for (const int count : {0, 1, 5, 16, 37}) {
    std::vector<Problem<double>> problems;
    std::vector<double> bearings, points, poses(48 * count + 1, -7.0);
    std::vector<std::uint8_t> valid(4 * count + 1, 9);
    for (int i = 0; i < count; ++i) {
      problems.push_back(random_problem<double>(generator));
      for (const auto& f : problems[i].bearings) bearings.insert(bearings.end(), {f.x, f.y, f.z});
      for (const auto& X : problems[i].points) points.insert(points.end(), {X.x, X.y, X.z});
    }
    pyloc::cpu::p3p_kernels().solve_f64(bearings.data(), points.data(), count, poses.data(), valid.data());
    for (int i = 0; i < count; ++i) {
      Pose<double> expected[4];
      const int n = pyloc::p3p(problems[i].bearings, problems[i].points, expected);
      for (int slot = 0; slot < 4; ++slot) {
        EXPECT_EQ(valid[4 * i + slot], slot < n);
        EXPECT_LT(error(pyloc::load_pose<double>(&poses[48 * i + 12 * slot]), expected[slot]), 1e-8);
      }
    }
    EXPECT_EQ(poses.back(), -7.0);
    EXPECT_EQ(valid.back(), 9);
  }
}

}  // namespace
