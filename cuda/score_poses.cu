// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/phase_launcher.h"
#include "cuda/score_poses.h"

namespace pyloc::cuda {

template <>
constexpr int kBlocksPerMultiprocessor<PoseScorePhase<kFewThreads>> = 3;

std::size_t score_poses_workspace(std::int64_t num_maps, std::int64_t num_problems, std::int64_t num_poses) {
  ScoreWorkspace ws{};
  return score_workspace(score_plan(num_maps, num_problems, num_poses, false), num_maps, num_problems,
                         nullptr, &ws);
}

cudaError_t score_poses(const ScoreInput& in, double* cost, void* workspace, cudaStream_t stream) {
  const LossMapsView& maps = in.problem.maps;
  const std::int64_t bytes = DenseGains::count(maps.window_w, maps.window_h) * std::int64_t(sizeof(float));
  const bool dense = bytes <= largest_shared_memory();
  const ScorePlan plan = score_plan(maps.count, in.problem.num_problems, in.num_poses, dense);
  ScoreWorkspace ws{};
  score_workspace(plan, maps.count, in.problem.num_problems, workspace, &ws);
  StreamLauncher launcher{stream};
  score_schedule(in, ws, plan, cost, launcher);
  return launcher.status;
}

}  // namespace pyloc::cuda
