// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// First phase of a round of estimate_pose on a GPU: P3P on the best cells of triplets (thesis, Eq. 4.8), in
// float64, one thread per triplet. See msac_problem.h.
#pragma once

#include "pyloc/msac_problem.h"
#include "pyloc/p3p.h"
#include "pyloc/random.h"

PYLOC_NAMESPACE_BEGIN

// Problems first_problem .. + problems - 1 and triplets first .. first + triplets - 1 of each; one block per
// problem and tile.
struct HypothesesPhase {
  static constexpr int kThreads = kTileTriplets;
  MsacInput in;
  MsacWorkspace ws;
  std::int64_t first_problem;
  int tiles;           // of the workspace
  std::int64_t first;  // triplet
  std::int64_t triplets;

  template <int Threads>
  struct Shared {
    int scan[Threads];
    int solutions[kTileTriplets];
  };

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>& s, std::int64_t block) const {
    const int used = int((triplets + kTileTriplets - 1) / kTileTriplets);
    const std::int64_t local = block / used;
    const int tile = int(block % used);
    const MsacState& state = ws.state[first_problem + local];
    if (state.finished) return;
    const std::int64_t at = local * tiles + tile;
    int found = 0;
    for (int i = g.rank(); i < kTileTriplets; i += Group::kSize) {
      const std::int64_t triplet = std::int64_t(tile) * kTileTriplets + i;
      s.solutions[i] = triplet < triplets ? solve(first_problem + local, state, first + triplet, at, i) : 0;
    }
    g.sync();
    constexpr int each = kTileTriplets / Group::kSize;  // triplets whose slots a thread lists
    for (int i = 0; i < each; ++i) found += s.solutions[g.rank() * each + i];
    int total;
    int place = group_offset(g, s.scan, found, total);
    std::int32_t* slots = ws.slot + at * kTileSlots;
    for (int i = g.rank() * each; i < (g.rank() + 1) * each; ++i)
      for (int r = 0; r < s.solutions[i]; ++r) slots[place++] = kMsacRoots * i + r;
    if (g.rank() == 0) ws.count[at] = total;
  }

 private:
  // How many solutions the triplet has; they are in the first slots.
  PYLOC_HD int solve(std::int64_t b, const MsacState& state, std::int64_t triplet, std::int64_t at,
                     int i) const {
    int pick[3];
    sample_triplet(in.seed, std::uint64_t(triplet), state.num_sampled, pick);
    const std::int64_t begin = maps_of(in, b).begin;
    Vec3<double> bearings[3], points[3];
    std::uint32_t cell[3];
    for (int j = 0; j < 3; ++j) {
      const std::int64_t k = begin + pick[j];
      bearings[j] = {ws.bearing[3 * k], ws.bearing[3 * k + 1], ws.bearing[3 * k + 2]};
      points[j] = point_of(in, begin + ws.order[k]);
      cell[j] = cell_key_at(ws.cell, k);
    }
    // Two points on one bearing fix no pose.
    if (cell[0] == cell[1] || cell[0] == cell[2] || cell[1] == cell[2]) return 0;
    Pose<double> poses[kMsacRoots];
    const int count = p3p(bearings, points, poses);
    const Camera<double> cam = camera_of(in, b);
    for (int r = 0; r < count; ++r) {
      const std::int64_t slot = at * kTileSlots + kMsacRoots * i + r;
      store_pose(poses[r], ws.pose + 12 * slot);
      ws.row[slot] = scoring_pose(poses[r], state.frame, cam);
    }
    return count;
  }
};

PYLOC_NAMESPACE_END
