// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/simd_math.h"
#include "pyloc/robust.h"

namespace {

using pyloc::RobustLoss;

pyloc::RobustTerm<double> evaluate(const RobustLoss<double>& loss, double s) {
  pyloc::RobustTerm<double> out{};
  pyloc::visit_robust(loss,
                      [&](auto tag) { out = pyloc::robust_term<decltype(tag)::value, double>(s, loss); });
  return out;
}

class Kernels : public testing::TestWithParam<std::pair<int, double>> {
 protected:
  RobustLoss<double> loss() const {
    return pyloc::make_robust_loss(GetParam().first, 1.0, GetParam().second);
  }
};

TEST_P(Kernels, StartAsTheSquareAndAreNormalised) {
  const auto at_zero = evaluate(loss(), 0.0);
  EXPECT_NEAR(at_zero.rho, 0.0, 1e-12);
  const double s = 1e-6;  // Barron's kernel at alpha 0 keeps its meaning through the scale
  EXPECT_NEAR(loss().scale2 * evaluate(loss(), s / loss().scale2).rho / s, 1.0, 1e-5);
  EXPECT_NEAR(at_zero.weight, 1.0, 1e-12);
}

TEST_P(Kernels, WeightAndSlopeAreDerivatives) {
  for (double s : {0.01, 0.3, 0.9, 1.1, 2.0, 17.0, 300.0}) {
    const double h = 1e-5 * s;
    const auto here = evaluate(loss(), s), more = evaluate(loss(), s + h), less = evaluate(loss(), s - h);
    EXPECT_NEAR(here.weight, (more.rho - less.rho) / (2 * h), 1e-6) << "s = " << s;
    EXPECT_NEAR(here.slope, (more.weight - less.weight) / (2 * h), 1e-6) << "s = " << s;
  }
}

TEST_P(Kernels, AreMonotonousWithFallingWeights) {
  auto last = evaluate(loss(), 0.0);
  for (double s = 0.01; s < 1e6; s *= 1.3) {
    const auto next = evaluate(loss(), s);
    EXPECT_GE(next.rho, last.rho - 1e-12);
    EXPECT_LE(next.weight, last.weight + 1e-12);
    EXPECT_GE(next.weight, 0.0);
    last = next;
  }
}

TEST_P(Kernels, PacksAgreeWithScalars) {
  for (double s : {0.0, 1e-9, 0.5, 1.0, 3.0, 1e3, 1e9}) {
    const auto one = evaluate(loss(), s);
    pyloc::visit_robust(loss(), [&](auto tag) {
      const auto many = pyloc::robust_term<decltype(tag)::value, pyloc::PackD>(pyloc::PackD(s), loss());
      for (int i = 0; i < pyloc::PackD::kWidth; ++i) {
        EXPECT_NEAR(many.rho[i], one.rho, 1e-13 + 1e-13 * std::fabs(one.rho));
        EXPECT_NEAR(many.weight[i], one.weight, 1e-13);
        EXPECT_NEAR(many.slope[i], one.slope, 1e-13);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, Kernels,
                         testing::Values(std::pair(0, 0.0), std::pair(1, 0.0), std::pair(2, 0.0),
                                         std::pair(3, 0.0), std::pair(4, 0.0), std::pair(5, 0.0),
                                         std::pair(6, 2.0), std::pair(6, 1.0), std::pair(6, 0.5),
                                         std::pair(6, 0.0), std::pair(6, -1.0), std::pair(6, -2.0),
                                         std::pair(6, -30.0),
                                         std::pair(6, -std::numeric_limits<double>::infinity())));

TEST(Robust, BarronMeetsItsSpecialCases) {
  // Barron 2019: alpha = 1 is Charbonnier's, -2 Geman-McClure's with twice the scale.
  const auto charbonnier = pyloc::make_robust_loss(6, 1.0, 1.0),
             geman = pyloc::make_robust_loss(6, 1.0, -2.0);
  for (double s : {0.1, 1.0, 10.0, 1000.0}) {
    EXPECT_NEAR(evaluate(charbonnier, s).rho, 2 * (std::sqrt(s + 1) - 1), 1e-10);
    EXPECT_NEAR(evaluate(geman, s).rho, s / (1 + s / 4), 1e-10);
    for (double alpha : {2e-6, -2e-6, 1e-4}) {
      const auto near_cauchy = pyloc::make_robust_loss(6, 1.0, alpha);
      EXPECT_NEAR(evaluate(near_cauchy, s).rho, 2 * std::log1p(s / 2), 1e-2 * std::fabs(alpha) * 1e4);
    }
  }
}

TEST(SimdMath, LogarithmAndExponential) {
  for (double x = 1e-300; x < 1e300; x *= 1.7) {
    const double expected = std::log(x), found = pyloc::log_(pyloc::PackD(x))[0];
    EXPECT_NEAR(found, expected, 4e-16 * std::max(1.0, std::fabs(expected)));
  }
  for (double x = -700; x < 700; x += 0.377) {
    const double expected = std::exp(x);
    EXPECT_NEAR(pyloc::exp_(pyloc::PackD(x))[0] / expected, 1.0, 1e-15);
  }
  EXPECT_EQ(pyloc::exp_(pyloc::PackD(-1e9))[0], 0.0);
  EXPECT_EQ(pyloc::exp_(pyloc::PackD(0.0))[0], 1.0);
}

}  // namespace
