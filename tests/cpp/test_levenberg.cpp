// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "pyloc/levenberg.h"

namespace {

using Equations = pyloc::NormalEquations<double>;
using Pose = pyloc::Pose<double>;

const Pose kStart{{{1, 0, 0, 0, 1, 0, 0, 0, 1}}, {0, 0, 0}};

// Points seen as bearings-free 3D positions: residual R X + t - Y, whose minimum is the known pose.
struct Registration {
  Pose truth;
  int count = 12;
  int calls = 0;

  static pyloc::Vec3<double> point(int n) { return {std::sin(1.0 + n), std::cos(2.3 * n), 0.3 * n - 1.5}; }

  bool linearize(const Pose& pose, bool, Equations& eq) {
    ++calls;
    eq = Equations{};
    for (int n = 0; n < count; ++n) {
      const auto RX = pose.R * point(n);
      const auto e = pyloc::transform(truth, point(n)) - (RX + pose.t);
      const double J[3][6] = {
          {0, RX.z, -RX.y, 1, 0, 0}, {-RX.z, 0, RX.x, 0, 1, 0}, {RX.y, -RX.x, 0, 0, 0, 1}};
      const double r[3] = {e.x, e.y, e.z};
      for (int k = 0; k < 3; ++k) {
        eq.cost += r[k] * r[k];
        for (int a = 0, i = 0; a < 6; ++a) {
          eq.b[a] += J[k][a] * r[k];
          for (int b = 0; b <= a; ++b, ++i) eq.A[i] += J[k][a] * J[k][b];
        }
      }
    }
    return true;
  }
};

const pyloc::LevenbergOptions<double> kOptions{50, 1e-14, 1e-28, 0.0};

TEST(Levenberg, FindsAKnownPose) {
  Registration problem{{pyloc::so3_exp(pyloc::Vec3<double>{0.7, -0.4, 1.1}), {0.5, -2.0, 3.0}}};
  Pose pose = kStart;
  Equations eq;
  const auto result = pyloc::levenberg(problem, kOptions, pose, eq);
  EXPECT_EQ(result.stop, pyloc::LevenbergStop::kConverged);
  for (int i = 0; i < 9; ++i) EXPECT_NEAR(pose.R.m[i], problem.truth.R.m[i], 1e-10);
  EXPECT_NEAR(pose.t.y, -2.0, 1e-10);
  EXPECT_LT(eq.cost, 1e-18);
  EXPECT_LT(result.iterations, 15);
  EXPECT_EQ(problem.calls, result.iterations + 1);  // one pass per step
}

TEST(Levenberg, OneObservationLeavesDirectionsOpenButStaysFinite) {
  Registration problem{{pyloc::so3_exp(pyloc::Vec3<double>{0.1, 0, 0}), {1, 2, 3}}, 1};
  Pose pose = kStart;
  Equations eq;
  pyloc::levenberg(problem, kOptions, pose, eq);
  double inverse[36];
  EXPECT_FALSE(pyloc::observed_inverse(eq.A, inverse));
  EXPECT_TRUE(std::isfinite(pose.t.x + pose.R.m[0]));
  EXPECT_LT(eq.cost, 1e-12);
}

struct NotFinite {
  bool linearize(const Pose&, bool, Equations& eq) const {
    eq = Equations{};
    eq.cost = NAN;
    return true;
  }
};
struct Abort {
  bool linearize(const Pose&, bool, Equations&) const { return false; }
};
// The gradient promises what the cost never delivers.
struct Liar {
  bool linearize(const Pose&, bool, Equations& eq) const {
    eq = Equations{};
    for (int a = 0, i = 0; a < 6; i += ++a + 1) eq.A[i] = 1.0;
    eq.b[0] = 1.0;
    eq.cost = 1.0;
    return true;
  }
};

TEST(Levenberg, SaysWhyItStopped) {
  Pose pose = kStart;
  Equations eq;
  NotFinite not_finite;
  Abort abort;
  Liar liar;
  EXPECT_EQ(pyloc::levenberg(not_finite, kOptions, pose, eq).stop, pyloc::LevenbergStop::kNotFinite);
  EXPECT_EQ(pyloc::levenberg(abort, kOptions, pose, eq).stop, pyloc::LevenbergStop::kAborted);
  const auto patient = pyloc::levenberg(liar, {200, 0.0, 0.0, 0.0}, pose, eq);
  EXPECT_EQ(patient.stop, pyloc::LevenbergStop::kNoDecrease);
  EXPECT_LT(patient.iterations, 20);
  EXPECT_EQ(pyloc::levenberg(liar, {3, 0.0, 0.0, 0.0}, pose, eq).stop, pyloc::LevenbergStop::kMaxIterations);
  EXPECT_EQ(pose.t.x, 0.0);
}

}  // namespace
