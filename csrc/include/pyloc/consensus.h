// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// When does a pose over loss maps count as found? The rule that estimate_pose and refine_pose share.
//
// A map is usable when its peak gain exceeds a flat map's by more than 1 nat. A usable map is consistent
// with a pose when its bilinear gain there is at least half its peak gain. A wrong pose throws each point
// at an arbitrary cell, so map n is consistent by chance with probability a_n, the share of its window
// whose gain is at least half the peak. Any pose can be made to fit 3 maps; of the other U - 3, at least
// K - 3 agree by chance with at most the binomial tail at the mean share (Hoeffding 1956: among sums of
// independent trials with a given mean probability the binomial has the heaviest upper tail). Taken over
// all 4 C(U, 3) poses that minimal samples could propose, the expected number of false alarms (Desolneux,
// Moisan and Morel 2000) is
//     F = 4 C(U, 3) P[Binomial(U - 3, mean a_n) >= K - 3],
// and a pose is a success when U >= 4, K >= 4 and ln F <= kMaxLogFalseAlarms.
// Measured on the synthetic problems (12 to 400 maps, 50 to 100 % outliers; best of 300 minimal samples, a
// RANSAC on argmins, and starts near the truth, all refined): all 563 wrong poses had ln F >= 3.6, while
// right ones with 20 true maps of 40, or 30 of 150, had ln F <= -25. The threshold ln 0.1 lies between.
// Assumes wrong modes that do not conspire: a repeated facade can support a wrong pose.
#pragma once

#include "pyloc/loss_map.h"

// Plain results that cross from the kernels of any instruction set.
namespace pyloc {

struct Consensus {
  std::int64_t usable;      // U
  std::int64_t consistent;  // K
  double chance;            // mean a_n over usable maps
  double log_false_alarms;  // ln F
  bool success;
};

}  // namespace pyloc

PYLOC_NAMESPACE_BEGIN

constexpr float kUsableGain = 1.0f;                        // nats above a flat map
constexpr float kConsistentShare = 0.5f;                   // of the peak gain
constexpr std::int64_t kMinUsable = 4;                     // 3 maps fix a pose, the fourth can contradict it
constexpr double kMaxLogFalseAlarms = -2.302585092994046;  // ln 0.1

// What a map can say, independent of the pose.
struct MapEvidence {
  float peak;   // largest gain
  float share;  // a_n; 0 for an empty map
  bool usable;
};

PYLOC_HD inline MapEvidence map_evidence(const LossMapsView& maps, std::int64_t n) {
  const std::int64_t begin = maps.row_ptr[n], end = maps.row_ptr[n + 1];
  float peak = 0.0f;
  for (std::int64_t i = begin; i < end; ++i) peak = maps.gain[i] > peak ? maps.gain[i] : peak;
  std::int64_t high = 0;
  for (std::int64_t i = begin; i < end; ++i) high += maps.gain[i] >= kConsistentShare * peak ? 1 : 0;
  const double area = double(maps.window_w) * double(maps.window_h);
  const float flat = maps.flat_gain ? maps.flat_gain[n] : 0.0f;
  return {peak, area > 0.0 ? float(double(high) / area) : 1.0f, peak - flat > kUsableGain};
}

template <class T>
PYLOC_HD PYLOC_INLINE bool is_consistent(T gain, float peak) {
  return gain >= T(kConsistentShare) * T(peak);
}

// ln n!, Stirling's series above 15 (error below 1e-12), a product below.
PYLOC_HD inline double log_factorial(std::int64_t n) {
  if (n < 16) {
    double product = 1.0;
    for (std::int64_t i = 2; i <= n; ++i) product *= double(i);
    return ::log(product);
  }
  const double x = double(n), r = 1.0 / x, r2 = r * r;
  return x * (::log(x) - 1.0) + 0.5 * ::log(6.283185307179586 * x) +
         r * (1.0 / 12 - r2 * (1.0 / 360 - r2 * (1.0 / 1260 - r2 / 1680)));
}

PYLOC_HD inline double log_choose(std::int64_t n, std::int64_t k) {
  return log_factorial(n) - log_factorial(k) - log_factorial(n - k);
}

// ln P[Binomial(n, p) >= k]; 0, an upper bound, wherever k does not exceed the mean n p.
PYLOC_HD inline double log_binomial_tail(std::int64_t n, std::int64_t k, double p) {
  if (k <= 0 || !(p < 1.0) || double(k) <= double(n) * p) return 0.0;
  if (k > n || !(p > 0.0)) return -1e300;
  const double odds = p / (1.0 - p);
  double term = 1.0, sum = 1.0;  // relative to P[X = k]; terms fall geometrically above the mean
  for (std::int64_t i = k; i < n && term > 1e-17 * sum; ++i) {
    term *= odds * double(n - i) / double(i + 1);
    sum += term;
  }
  const double first = log_choose(n, k) + double(k) * ::log(p) + double(n - k) * ::log1p(-p);
  const double tail = first + ::log(sum);
  return tail < 0.0 ? tail : 0.0;
}

PYLOC_HD inline double log_false_alarms(std::int64_t usable, std::int64_t consistent, double chance) {
  if (usable < 3) return 0.0;
  return ::log(4.0) + log_choose(usable, 3) + log_binomial_tail(usable - 3, consistent - 3, chance);
}

PYLOC_HD inline Consensus consensus(std::int64_t usable, std::int64_t consistent, double chance) {
  const double alarms = log_false_alarms(usable, consistent, chance);
  const bool success = usable >= kMinUsable && consistent >= kMinUsable && alarms <= kMaxLogFalseAlarms;
  return {usable, consistent, chance, alarms, success};
}

PYLOC_NAMESPACE_END
