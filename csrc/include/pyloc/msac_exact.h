// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Hypotheses of one problem scored in float64 over its sampled maps by a block, and put into the pool. See
// msac_problem.h.
#pragma once

#include "pyloc/msac_problem.h"

PYLOC_NAMESPACE_BEGIN

template <int Threads>
struct ExactScratch {
  double gain[Threads], support[Threads];
};

// Threads per hypothesis: at least a warp, more where hypotheses are few.
template <int Threads>
PYLOC_HD PYLOC_INLINE int team_size(int count) {
  int team = Threads < 32 ? Threads : 32;
  while (2 * team * count <= Threads) team *= 2;
  return team;
}

// hypothesis(i) gives the i-th of `count` hypotheses, whose gain and support are then set. `pool` is written
// by thread 0 alone; a barrier is the caller's.
template <class Group, class Hypothesis>
PYLOC_HD inline void collect_exact(const Group& g, ExactScratch<Group::kSize>& scratch, const MsacInput& in,
                                   const MsacWorkspace& ws, std::int64_t b, int num_sampled,
                                   const Hypothesis& hypothesis, int count, MsacPool<kMsacFinalists>& pool) {
  if (count <= 0) return;
  const Camera<double> cam = camera_of(in, b);
  const std::int64_t begin = maps_of(in, b).begin;
  const int size = team_size<Group::kSize>(count), teams = Group::kSize / size;
  const int team = g.rank() / size, lane = g.rank() % size;
  for (int first = 0; first < count; first += teams) {
    double gain = 0.0, support = 0.0;
    if (first + team < count) {
      const Pose<double> pose = hypothesis(first + team).cam_from_world;
      for (int k = lane; k < num_sampled; k += size) {
        const std::int64_t n = begin + ws.order[begin + k];
        const double value = exact_gain(in, cam, pose, n);
        gain += value;
        support += is_consistent(value, ws.peak[n]) ? 1.0 : 0.0;
      }
    }
    g.sync();
    scratch.gain[g.rank()] = gain;
    scratch.support[g.rank()] = support;
    for (int half = size / 2; half > 0; half /= 2) {
      g.sync();
      if (lane < half) {
        scratch.gain[g.rank()] += scratch.gain[g.rank() + half];
        scratch.support[g.rank()] += scratch.support[g.rank() + half];
      }
    }
    g.sync();
    if (g.rank() != 0) continue;
    for (int i = 0; i < teams && first + i < count; ++i) {
      const double total = scratch.gain[i * size];
      if (pool.full() && total < pool.threshold()) continue;
      MsacHypothesis h = hypothesis(first + i);
      h.gain = total;
      h.support = scratch.support[i * size];
      pool.insert(h);
    }
  }
}

PYLOC_NAMESPACE_END
