// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "pyloc/consensus.h"

namespace {

double plain_tail(int n, int k, double p) {
  double sum = 0.0;
  for (int i = k; i <= n; ++i)
    sum += std::exp(std::lgamma(n + 1.0) - std::lgamma(i + 1.0) - std::lgamma(n - i + 1.0) + i * std::log(p) +
                    (n - i) * std::log1p(-p));
  return sum;
}

TEST(Consensus, LogFactorialMatchesLgamma) {
  for (int n = 0; n < 400; ++n) EXPECT_NEAR(pyloc::log_factorial(n), std::lgamma(n + 1.0), 1e-10) << n;
}

TEST(Consensus, TailMatchesTheSum) {
  for (const double p : {1e-4, 0.01, 0.2, 0.6})
    for (const int n : {1, 7, 40, 300})
      for (int k = int(n * p) + 1; k <= n; k += 1 + n / 9) {
        const double expected = plain_tail(n, k, p);
        if (expected > 1e-290) {
          EXPECT_NEAR(pyloc::log_binomial_tail(n, k, p), std::log(expected), 1e-9);
        }
      }
}

TEST(Consensus, TailIsAnUpperBoundAtItsEnds) {
  EXPECT_EQ(pyloc::log_binomial_tail(10, 0, 0.1), 0.0);
  EXPECT_EQ(pyloc::log_binomial_tail(10, 1, 0.5), 0.0);  // below the mean
  EXPECT_EQ(pyloc::log_binomial_tail(10, 3, 1.0), 0.0);
  EXPECT_LT(pyloc::log_binomial_tail(10, 11, 0.1), -1e299);
  EXPECT_LT(pyloc::log_binomial_tail(10, 1, 0.0), -1e299);
}

TEST(Consensus, FewConsistentMapsAreNoSuccess) {
  EXPECT_FALSE(pyloc::consensus(3, 3, 1e-4).success);
  EXPECT_TRUE(pyloc::consensus(4, 4, 1e-4).success);
  EXPECT_FALSE(pyloc::consensus(1000, 5, 1e-3).success);
  EXPECT_TRUE(pyloc::consensus(1000, 300, 1e-3).success);
  EXPECT_FALSE(pyloc::consensus(0, 0, 0.0).success);
  double last = 1.0;
  for (int k = 5; k < 60; ++k) {  // more agreement, fewer false alarms
    const double alarms = pyloc::log_false_alarms(200, k, 1e-3);
    EXPECT_LT(alarms, last + 20.0 * (k == 5));
    last = alarms;
  }
}

TEST(Consensus, EvidenceOfAMap) {
  const std::vector<std::int64_t> row_ptr{0, 3, 3};
  const std::vector<std::int16_t> xy{1, 0, 2, 0, 5, 4};
  const std::vector<float> gain{4.0f, 2.0f, 0.5f}, flat{3.5f, 0.0f};
  pyloc::LossMapsView maps{2, row_ptr.data(), xy.data(), gain.data(), nullptr, 10, 10, 10, 10, 5.0, nullptr};
  const auto first = pyloc::map_evidence(maps, 0);
  EXPECT_EQ(first.peak, 4.0f);
  EXPECT_FLOAT_EQ(first.share, 0.02f);
  EXPECT_TRUE(first.usable);
  EXPECT_FALSE(pyloc::map_evidence(maps, 1).usable);
  maps.flat_gain = flat.data();
  EXPECT_FALSE(pyloc::map_evidence(maps, 0).usable);
  EXPECT_TRUE(pyloc::is_consistent(2.0, 4.0f));
  EXPECT_FALSE(pyloc::is_consistent(1.99, 4.0f));
}

}  // namespace
