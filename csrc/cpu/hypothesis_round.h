// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One round of a consensus loop: triplets drawn by counter, P3P over the batch, the solutions in order.
#pragma once

#include <cstring>
#include <ctime>

#include "cpu/p3p.h"
#include "cpu/simd.h"
#include "pyloc/msac.h"
#include "pyloc/random.h"

PYLOC_NAMESPACE_BEGIN

inline double seconds_now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

struct HypothesisRound {
  Scratch<Pose<double>> pose;    // (count)
  Scratch<std::int64_t> number;  // (count): 4 * triplet + root, rising
  Scratch<float> gain;           // (count): for the caller
  int count = 0;

  HypothesisRound()
      : pose(kMsacRoots * kMsacLargestRound),
        number(kMsacRoots * kMsacLargestRound),
        gain(kMsacRoots * kMsacLargestRound),
        bearings_(9 * kMsacLargestRound),
        points_(9 * kMsacLargestRound),
        solutions_(12 * kMsacRoots * kMsacLargestRound),
        usable_(kMsacLargestRound),
        valid_(kMsacRoots * kMsacLargestRound) {}
  bool ok() const {
    return pose && number && gain && bearings_ && points_ && solutions_ && usable_ && valid_;
  }

  // Triplets first .. first + triplets - 1 of `n` samples with the given bearings. point(k) is sample k's
  // point; triplets in which repeated(i, j) holds for any two samples (one bearing for two points fixes no
  // pose) are left out.
  template <class Point, class Repeated>
  void draw(std::uint64_t seed, std::int64_t first, std::int64_t triplets, int n,
            const Vec3<double>* bearings, const Point& point, const Repeated& repeated) {
    for (std::int64_t i = 0; i < triplets; ++i) {
      int pick[3];
      sample_triplet(seed, std::uint64_t(first + i), n, pick);
      usable_[i] = !(repeated(pick[0], pick[1]) || repeated(pick[0], pick[2]) || repeated(pick[1], pick[2]));
      for (int j = 0; j < 3; ++j) {
        const Vec3<double> X = point(pick[j]);
        memcpy(points_.data() + 9 * i + 3 * j, &X, 3 * sizeof(double));
        memcpy(bearings_.data() + 9 * i + 3 * j, &bearings[pick[j]], 3 * sizeof(double));
      }
    }
    cpu::p3p_kernels().solve_f64(bearings_.data(), points_.data(), triplets, solutions_.data(),
                                 valid_.data());
    count = 0;
    for (std::int64_t i = 0; i < kMsacRoots * triplets; ++i) {
      if (!valid_[i] || !usable_[i / kMsacRoots]) continue;
      pose[count] = load_pose<double>(solutions_.data() + 12 * i);
      number[count++] = kMsacRoots * first + i;
    }
  }

 private:
  Scratch<double> bearings_, points_, solutions_;  // (T, 3, 3), (T, 3, 3), (T, 4, 3, 4)
  Scratch<std::uint8_t> usable_, valid_;           // (T), (T, 4)
};

PYLOC_NAMESPACE_END
