// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Last phases of estimate_pose on a GPU: the finalists over all maps, the winner, the verdict. See
// msac_problem.h.
#pragma once

#include "pyloc/msac_problem.h"

PYLOC_NAMESPACE_BEGIN

// Gains of all maps at the finalists' poses; one thread per map.
struct FinalGainPhase {
  static constexpr int kThreads = 64;
  MsacInput in;
  MsacOutput out;
  MsacWorkspace ws;

  template <int Threads>
  struct Shared {};

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>&, std::int64_t block) const {
    for (int t = g.rank(); t < kThreads; t += Group::kSize) {
      const std::int64_t n = block * kThreads + t;
      if (n >= in.maps.count) continue;
      out.inlier_probability[n] = 0.0;
      const std::int64_t b = problem_of(in, n);
      if (b < 0) continue;
      const MsacPool<kMsacFinalists>& pool = ws.state[b].pool;
      const Camera<double> cam = camera_of(in, b);
      for (int i = 0; i < pool.count; ++i)
        ws.final_gain[i * in.maps.count + n] = exact_gain(in, cam, pool.entry[i].cam_from_world, n);
    }
  }
};

// One block per problem.
struct DecidePhase {
  static constexpr int kThreads = 256;
  MsacInput in;
  MsacOutput out;
  MsacWorkspace ws;

  template <int Threads>
  struct Shared {
    double sums[Threads];
  };

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>& s, std::int64_t b) const {
    const MsacState& state = ws.state[b];
    const int finalists = state.num_usable < kMinUsable ? 0 : state.pool.count;
    if (finalists == 0) {
      if (g.rank() == 0) no_pose(b, state);
      return;
    }
    const MapRange maps = maps_of(in, b);
    int best = -1;
    MsacHypothesis winner{};
    double total = 0.0;
    for (int i = 0; i < finalists; ++i) {
      MsacHypothesis h{0.0, 0.0, state.pool.entry[i].number, {}};
      const double all = totals(g, s.sums, maps, i, h);
      if (best >= 0 && !precedes(h, winner)) continue;
      best = i;
      winner = h;
      total = all;
    }
    const double* gains = ws.final_gain + best * in.maps.count + maps.begin;
    for (int i = g.rank(); i < maps.count; i += Group::kSize)
      out.inlier_probability[maps.begin + i] = -::expm1(-gains[i]);
    if (g.rank() != 0) return;
    store_pose(state.pool.entry[best].cam_from_world, out.cam_from_world + 12 * b);
    const std::int64_t consistent = std::int64_t(winner.support);
    const Consensus found = consensus(state.num_usable, consistent, state.chance);
    verdict(b, state, found.success ? 0 : 3, consistent);
    out.gain[b] = total;
    out.cost[b] = double(maps.count) * in.maps.log_cardinality - total;
  }

 private:
  // Gain and support over usable maps into h; the gain over all maps.
  template <class Group>
  PYLOC_HD double totals(const Group& g, double* sums, const MapRange& maps, int finalist,
                         MsacHypothesis& h) const {
    const double* gains = ws.final_gain + finalist * in.maps.count + maps.begin;
    double all = 0.0, gain = 0.0, support = 0.0;
    for (int i = g.rank(); i < maps.count; i += Group::kSize) {
      all += gains[i];
      if (!(ws.key[maps.begin + i] > 0.0f)) continue;
      gain += gains[i];
      support += is_consistent(gains[i], ws.peak[maps.begin + i]) ? 1.0 : 0.0;
    }
    h.gain = group_sum(g, sums, gain);
    h.support = group_sum(g, sums, support);
    return group_sum(g, sums, all);
  }

  PYLOC_HD void verdict(std::int64_t b, const MsacState& state, int status, std::int64_t consistent) const {
    out.status[b] = status;
    out.iterations[b] = std::int32_t(state.done);
    out.num_usable[b] = state.num_usable;
    out.num_consistent[b] = std::int32_t(consistent);
  }

  // The first initial pose, or the identity.
  PYLOC_HD void no_pose(std::int64_t b, const MsacState& state) const {
    for (int i = 0; i < 12; ++i)
      out.cam_from_world[12 * b + i] =
          in.num_initial ? in.initial[12 * b * in.num_initial + i] : (i % 5 == 0 ? 1.0 : 0.0);
    verdict(b, state, state.num_usable < kMinUsable ? 1 : 2, 0);
    out.gain[b] = out.cost[b] = 0.0;
  }
};

PYLOC_NAMESPACE_END
