// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The elementary functions and sums under Sinkhorn's iteration.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/simd_math.h"
#include "cpu/sinkhorn_sweep.h"

namespace {

using pyloc::PackF;

float exp_close(float x) { return pyloc::exp_close_(PackF(x))[0]; }
float exp_below(float x) { return pyloc::exp_below_(PackF(x))[0]; }

TEST(Sinkhorn, ExponentialIsCloseOverItsRange) {
  double near = 0.0, far = 0.0;
  for (double step = -87.33; step <= 80.0; step += 0.00317) {
    const float x = float(step);
    const double error = std::fabs(double(exp_close(x)) / std::exp(double(x)) - 1.0);
    far = error > far ? error : far;
    if (x > -10 && x < 10) near = error > near ? error : near;
    if (x <= 0) {
      EXPECT_EQ(exp_close(x), exp_below(x));
    }
  }
  EXPECT_LT(near, 3e-7);
  EXPECT_LT(far, 6e-6);  // without fused multiply-add; with it below 5e-7
  EXPECT_EQ(exp_close(0.0f), 1.0f);
}

TEST(Sinkhorn, ExponentialMakesNoDenormals) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {-infinity, -3e38f, -1e4f, -87.4f, -87.34f}) {
    EXPECT_EQ(exp_close(x), 0.0f) << x;
    EXPECT_EQ(exp_below(x), 0.0f) << x;
  }
  EXPECT_GE(exp_close(-87.3f), std::numeric_limits<float>::min());
  EXPECT_LT(exp_close(3e38f), infinity);  // saturates
}

TEST(Sinkhorn, LogarithmOfFloats) {
  for (double x = 1.2e-38; x < 3e38; x *= 1.0137) {
    const double truth = std::log(double(float(x)));
    EXPECT_NEAR(pyloc::log_(PackF(float(x)))[0], truth, 2e-7 * (1.0 + std::fabs(truth))) << x;
  }
  EXPECT_EQ(pyloc::log_(PackF(1.0f))[0], 0.0f);
}

// Four rows of 64 numbers with exact sums, once by hand and once in a sweep.
TEST(Sinkhorn, SweepSumsRowsAndColumns) {
  constexpr std::int64_t ld = 64;
  alignas(64) float k[8 * ld], x[ld], y[ld], sums[ld], more[ld];
  for (int i = 0; i < 8 * ld; ++i) k[i] = float((i * 37) % 11 - 5);
  for (int c = 0; c < ld; ++c) x[c] = float(c % 7), y[c] = float(c % 5 - 2), sums[c] = 1.0f, more[c] = 2.0f;
  float one[4], two[2][pyloc::kSweepRows];
  pyloc::row_products(k, ld, x, one);
  const float* vectors[2] = {x, y};
  pyloc::row_products<2>(k, ld, vectors, two);
  for (int r = 0; r < 4; ++r) {
    float by_x = 0.0f, by_y = 0.0f;
    for (int c = 0; c < ld; ++c) by_x += k[r * ld + c] * x[c], by_y += k[r * ld + c] * y[c];
    EXPECT_EQ(one[r], by_x);
    EXPECT_EQ(two[0][r], by_x);
    EXPECT_EQ(two[1][r], by_y);
  }
  const float first[4] = {1, -2, 3, 4}, second[4] = {0, 5, -1, 2};
  const float* factors[2] = {first, second};
  float* both[2] = {sums, more};
  pyloc::add_rows<2>(k, ld, factors, both, k + 4 * ld);
  for (int c = 0; c < ld; ++c) {
    EXPECT_EQ(sums[c], 1 + k[c] - 2 * k[ld + c] + 3 * k[2 * ld + c] + 4 * k[3 * ld + c]);
    EXPECT_EQ(more[c], 2 + 5 * k[ld + c] - k[2 * ld + c] + 2 * k[3 * ld + c]);
  }
}

}  // namespace
