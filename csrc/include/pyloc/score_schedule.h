// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// score_poses on a GPU: Eq. 4.6 of M poses for each of B problems, in float32 over chunks of maps that are
// then added in order. Phases as in msac_problem.h; the host waits for nothing.
#pragma once

#include "pyloc/msac_problem.h"
#include "pyloc/msac_score.h"

PYLOC_NAMESPACE_BEGIN

struct ScoreInput {
  MsacInput problem;             // maps, points, cameras and problem_ptr; the rest is not read
  const double* cam_from_world;  // (B, M, 3, 4)
  std::int64_t num_poses;        // M
};

struct ScoreWorkspace {
  WorldFrame* frame;  // (B)
  float* point;       // (N, 3), in its problem's frame
  float* partial;     // (B, T, C, 1024)
};

struct ScorePlan {
  std::int64_t tiles;  // T, of 1024 poses
  int chunks;          // C, of maps
  bool dense;
};

inline ScorePlan score_plan(std::int64_t num_maps, std::int64_t num_problems, std::int64_t num_poses,
                            bool dense) {
  const std::int64_t tiles = (num_poses + kHypothesesPerBlock - 1) / kHypothesesPerBlock;
  const std::int64_t blocks = tiles * num_problems > 0 ? tiles * num_problems : 1;
  std::int64_t chunks = 1024 / blocks, most = num_maps / 4;
  if (chunks > 64) chunks = 64;
  if (chunks > most) chunks = most;
  return {tiles, int(chunks < 1 ? 1 : chunks), dense};
}

// As msac_workspace.
inline std::size_t score_workspace(const ScorePlan& plan, std::int64_t num_maps, std::int64_t num_problems,
                                   void* memory, ScoreWorkspace* ws) {
  WorkspaceCursor cursor{static_cast<char*>(memory)};
  cursor.place(ws->frame, num_problems);
  cursor.place(ws->point, 3 * num_maps);
  cursor.place(ws->partial, num_problems * plan.tiles * plan.chunks * kHypothesesPerBlock);
  return cursor.used;
}

// Centre and half extent of a problem's points, and the points in that frame. One block per problem.
struct FramePhase {
  static constexpr int kThreads = 256;
  ScoreInput in;
  ScoreWorkspace ws;

  template <int Threads>
  struct Shared {
    double sums[Threads];
  };

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>& s, std::int64_t b) const {
    const MapRange maps = maps_of(in.problem, b);
    const auto point = [&](int i) { return point_of(in.problem, maps.begin + i); };
    const WorldFrame frame = frame_of_points(g, s.sums, point, maps.count);
    if (g.rank() == 0) ws.frame[b] = frame;
    for (int i = g.rank(); i < maps.count; i += Group::kSize) {
      const Vec3<double> X = frame.apply(point(i));
      float* x = ws.point + 3 * (maps.begin + i);
      x[0] = float(X.x);
      x[1] = float(X.y);
      x[2] = float(X.z);
    }
  }
};

// One block per problem, tile of poses and chunk of maps.
template <int BlockThreads>
struct PoseScorePhase {
  static constexpr int kThreads = BlockThreads;
  ScoreInput in;
  ScoreWorkspace ws;
  ScorePlan plan;

  template <int Threads>
  struct Shared {};

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>&, std::int64_t block, float* cells) const {
    const int chunk = int(block % plan.chunks);
    const std::int64_t at = block / plan.chunks, tile = at % plan.tiles, b = at / plan.tiles;
    const MapRange maps = maps_of(in.problem, b);
    const Camera<double> exact = camera_of(in.problem, b);
    const Camera<float> cam = convert<float>(exact);
    const WorldFrame frame = ws.frame[b];
    const std::int64_t first = tile * kHypothesesPerBlock, left = in.num_poses - first;
    const int count = left < kHypothesesPerBlock ? int(left) : kHypothesesPerBlock;
    const double* poses = in.cam_from_world + 12 * (b * in.num_poses + first);
    const auto pose = [&](int i) { return scoring_pose(load_pose<double>(poses + 12 * i), frame, exact); };
    const auto map = [&](int k) {
      const float* X = ws.point + 3 * (maps.begin + k);
      return ScoredMap{maps.begin + k, {X[0], X[1], X[2]}};
    };
    const std::int64_t n = maps.count;
    score_tile(g, in.problem.maps, cam, plan.dense ? cells : nullptr, pose, count, map,
               int(n * chunk / plan.chunks), int(n * (chunk + 1) / plan.chunks),
               ws.partial + (at * plan.chunks + chunk) * kHypothesesPerBlock);
  }
};

// cost (B, M) = maps of the problem times ln|O| minus the gain. One thread per pose.
struct CostPhase {
  static constexpr int kThreads = 128;
  ScoreInput in;
  ScoreWorkspace ws;
  ScorePlan plan;
  double* cost;

  template <int Threads>
  struct Shared {};

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>&, std::int64_t block) const {
    for (int t = g.rank(); t < kThreads; t += Group::kSize) {
      const std::int64_t i = block * kThreads + t;
      if (i >= in.problem.num_problems * in.num_poses) continue;
      const std::int64_t b = i / in.num_poses, m = i % in.num_poses;
      const std::int64_t at = b * plan.tiles + m / kHypothesesPerBlock;
      const float* partial = ws.partial + at * plan.chunks * kHypothesesPerBlock + m % kHypothesesPerBlock;
      double gain = 0.0;
      for (int c = 0; c < plan.chunks; ++c) gain += double(partial[std::int64_t(c) * kHypothesesPerBlock]);
      cost[i] = double(maps_of(in.problem, b).count) * in.problem.maps.log_cardinality - gain;
    }
  }
};

template <class Launcher>
bool score_schedule(const ScoreInput& in, const ScoreWorkspace& ws, const ScorePlan& plan, double* cost,
                    Launcher& launcher) {
  const std::int64_t B = in.problem.num_problems;
  const LossMapsView& maps = in.problem.maps;
  const std::int64_t cells = plan.dense ? DenseGains::count(maps.window_w, maps.window_h) : 0;
  if (!launcher.run(FramePhase{in, ws}, B)) return false;
  const std::int64_t blocks = B * plan.tiles * plan.chunks;
  const bool scored = cells > kFewCells
                          ? launcher.run_dense(PoseScorePhase<kManyThreads>{in, ws, plan}, blocks, cells)
                          : launcher.run_dense(PoseScorePhase<kFewThreads>{in, ws, plan}, blocks, cells);
  if (!scored) return false;
  return launcher.run(CostPhase{in, ws, plan, cost},
                      (B * in.num_poses + CostPhase::kThreads - 1) / CostPhase::kThreads);
}

PYLOC_NAMESPACE_END
