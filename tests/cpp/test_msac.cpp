// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "pyloc/msac.h"

using namespace pyloc;

TEST(RequiredTriplets, MatchesItsDefinition) {
  for (double w : {0.12, 0.2, 0.3, 0.5}) {
    for (double p : {0.9, 0.99, 0.9999}) {
      const std::int64_t k = required_triplets(w, p);
      const double missed = std::pow(1.0 - w * w * w, double(k));
      if (k < kMsacMaxIterations) {
        EXPECT_LE(missed, (1.0 - p) * (1.0 + 1e-9)) << w << " " << p;
      }
      if (k > kMsacMinIterations && k < kMsacMaxIterations) {
        EXPECT_GT(missed / (1.0 - w * w * w), 1.0 - p) << w << " " << p;
      }
    }
  }
}

TEST(RequiredTriplets, StaysBetweenTheBounds) {
  EXPECT_EQ(required_triplets(0.0, 0.99), kMsacMaxIterations);
  EXPECT_EQ(required_triplets(NAN, 0.99), kMsacMaxIterations);
  EXPECT_EQ(required_triplets(1e-9, 0.99), kMsacMaxIterations);
  EXPECT_EQ(required_triplets(1.0, 0.99), kMsacMinIterations);
  EXPECT_EQ(required_triplets(0.9, 0.99), kMsacMinIterations);
  EXPECT_EQ(required_triplets(0.9, 1.0), kMsacMaxIterations);
}

TEST(RoundSize, DoublesAndEndsWhereWanted) {
  std::int64_t done = 0;
  std::vector<std::int64_t> sizes;
  while (done < 5000) {
    sizes.push_back(round_size(done, 5000));
    done += sizes.back();
  }
  EXPECT_EQ(done, 5000);
  EXPECT_EQ(sizes[0], 64);
  EXPECT_EQ(sizes[1], 64);
  EXPECT_EQ(sizes[2], 128);
  EXPECT_EQ(*std::max_element(sizes.begin(), sizes.end()), kMsacLargestRound);
  EXPECT_EQ(round_size(0, 1), 1);
}

TEST(MsacPool, HoldsTheBestWhateverTheOrder) {
  std::mt19937 generator(3);
  std::uniform_int_distribution<int> coarse(0, 20);  // many equal gains
  std::vector<MsacHypothesis> all;
  for (std::int64_t i = 0; i < 200; ++i) all.push_back({double(coarse(generator)), 0.0, i, {}});
  std::vector<MsacHypothesis> sorted = all;
  std::sort(sorted.begin(), sorted.end(),
            [](const MsacHypothesis& a, const MsacHypothesis& b) { return precedes(a, b); });
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::shuffle(all.begin(), all.end(), generator);
    MsacPool<5> pool;
    for (const MsacHypothesis& h : all) pool.insert(h);
    ASSERT_EQ(pool.count, 5);
    for (int k = 0; k < 5; ++k) EXPECT_EQ(pool.entry[k].number, sorted[std::size_t(k)].number);
    EXPECT_EQ(pool.threshold(), sorted[4].gain);
  }
}

TEST(MsacPool, RefusesWhatIsNotANumber) {
  MsacPool<3> pool;
  EXPECT_FALSE(pool.insert({NAN, 0.0, 0, {}}));
  EXPECT_FALSE(pool.insert({HUGE_VAL, 0.0, 0, {}}));
  EXPECT_EQ(pool.count, 0);
  EXPECT_EQ(pool.threshold(), -HUGE_VAL);
}

TEST(KthLargest, AgreesWithSorting) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  for (int n : {1, 3, 4, 100}) {
    std::vector<float> values(static_cast<std::size_t>(n));
    for (float& v : values) v = normal(generator);
    const float found = kth_largest<4>(values.data(), n);
    std::sort(values.begin(), values.end(), std::greater<float>());
    EXPECT_EQ(found, n < 4 ? -HUGE_VALF : values[3]);
  }
}

TEST(RankDescending, IsAStableSort) {
  std::mt19937 generator(7);
  std::uniform_real_distribution<float> uniform(1e-6f, 12.0f);
  for (int n : {0, 1, 2, 1000}) {
    std::vector<float> keys(static_cast<std::size_t>(n));
    for (float& k : keys) k = uniform(generator);
    for (int i = 5; i < n; i += 7) keys[std::size_t(i)] = keys[std::size_t(i - 5)];
    std::vector<int> order(static_cast<std::size_t>(n)), scratch(order), expected(order);
    rank_descending(keys.data(), n, order.data(), scratch.data());
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(),
                     [&](int a, int b) { return keys[std::size_t(a)] > keys[std::size_t(b)]; });
    EXPECT_EQ(order, expected);
  }
}
