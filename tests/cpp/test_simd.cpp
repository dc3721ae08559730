// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cpu/simd.h"

// Compiled for the baseline; csrc/cpu's tests through Python cover the other instruction sets.
namespace {

using pyloc::PackD;
using pyloc::PackF;
using pyloc::PackI;

TEST(Simd, Exp2IsAccurateOverItsRange) {
  double worst = 0;
  for (float x = -126.0f; x <= 127.0f; x += 0.00317f) {
    const double expected = std::exp2(static_cast<double>(x));
    const double got = pyloc::exp2_(PackF(x))[PackF::kWidth - 1];
    worst = std::fmax(worst, std::fabs(got / expected - 1));
  }
  EXPECT_LT(worst, 3e-7);
  EXPECT_EQ(pyloc::exp2_(PackF(-1e30f))[0], 0.0f);
  EXPECT_EQ(pyloc::exp2_(PackF(0.0f))[0], 1.0f);
  EXPECT_TRUE(std::isfinite(pyloc::exp2_(PackF(1e30f))[0]));
}

TEST(Simd, FloorRoundsDown) {
  for (const float x : {-2.5f, -2.0f, -0.1f, 0.0f, 0.1f, 1.99f, 7.0f})
    EXPECT_EQ(pyloc::floor_(PackF(x))[0], std::floor(x));
}

TEST(Simd, MasksReductionsAndPartialAccess) {
  const PackF iota = PackF::iota();
  const int n = PackF::kWidth;
  EXPECT_EQ(pyloc::reduce_add(iota), float(n * (n - 1) / 2));
  EXPECT_EQ(pyloc::reduce_max(iota), float(n - 1));
  EXPECT_TRUE(pyloc::any(iota > 0.5f));
  EXPECT_FALSE(pyloc::all(iota > 0.5f));
  EXPECT_FALSE(pyloc::any(iota > float(n)));
  const auto chosen = pyloc::select(iota < 1.0f, PackF(5.0f), iota);
  EXPECT_EQ(chosen[0], 5.0f);
  EXPECT_EQ(chosen[1], 1.0f);
  const std::vector<float> two = {3.0f, 4.0f};
  const PackF part = PackF::load_partial(two.data(), 2, -1.0f);
  EXPECT_EQ(part[1], 4.0f);
  EXPECT_EQ(part[2], -1.0f);
  std::vector<float> out(2);
  part.store_partial(out.data(), 2);
  EXPECT_EQ(out, two);
}

TEST(Simd, GatherAndBits) {
  std::vector<float> table(64);
  for (int i = 0; i < 64; ++i) table[i] = 0.5f * i;
  EXPECT_EQ(pyloc::gather(table.data(), PackI(7))[0], 3.5f);
  const PackI packed(static_cast<std::int32_t>((5u << 16) | 0xFFFDu));  // (x = -3, y = 5) as int16
  EXPECT_EQ(pyloc::shift_right(pyloc::shift_left(packed, 16), 16)[0], -3);
  EXPECT_EQ(pyloc::shift_right(packed, 16)[0], 5);
  EXPECT_EQ(pyloc::sqrt_(PackD(2.25))[0], 1.5);
}

TEST(Simd, ScalarOperandsBroadcastExactly) {
  EXPECT_EQ((PackF(3.0f) * 2.0f)[1], 6.0f);
  EXPECT_EQ((1.0 / PackD(8.0))[1], 0.125);
  EXPECT_TRUE(std::signbit(PackF(-0.0f)[0]));
}

}  // namespace
