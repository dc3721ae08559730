// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <map>

#include "pyloc/random.h"

namespace {

// Known answers published with the generator (Random123, kat_vectors: philox4x32, 10 rounds).
TEST(Philox, KnownAnswers) {
  const auto zero = pyloc::philox(0, 0, 0);
  EXPECT_EQ(zero.v[0], 0x6627e8d5u);
  EXPECT_EQ(zero.v[1], 0xe169c58du);
  EXPECT_EQ(zero.v[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.v[3], 0x9b00dbd8u);
  const auto ones = pyloc::philox(~0ull, ~0ull, ~0ull);
  EXPECT_EQ(ones.v[0], 0x408f276du);
  EXPECT_EQ(ones.v[1], 0x41c83b0eu);
  EXPECT_EQ(ones.v[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.v[3], 0x6d5451fdu);
}

TEST(SampleTriplet, IsDistinctInRangeAndUniform) {
  std::map<std::array<int, 3>, int> counts;
  constexpr int kDraws = 60000;
  for (int h = 0; h < kDraws; ++h) {
    int t[3];
    pyloc::sample_triplet(42, static_cast<std::uint64_t>(h), 5, t);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(t[i] >= 0 && t[i] < 5);
    ASSERT_TRUE(t[0] != t[1] && t[1] != t[2] && t[0] != t[2]);
    ++counts[{t[0], t[1], t[2]}];
  }
  ASSERT_EQ(counts.size(), 60u);  // 5 * 4 * 3 ordered triplets
  double chi2 = 0;
  for (const auto& [triplet, n] : counts) chi2 += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(chi2, 100);  // 59 degrees of freedom: the 0.999 quantile is 98.3
}

}  // namespace
