// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/estimate_pose.h"
#include "cuda/phase_launcher.h"
#include "pyloc/msac_schedule.h"

namespace pyloc::cuda {

template <>
constexpr int kBlocksPerMultiprocessor<ScorePhase<kFewThreads>> = 3;

std::size_t estimate_pose_workspace(std::int64_t num_maps, std::int64_t num_problems) {
  MsacWorkspace ws{};
  return msac_workspace(msac_plan(num_maps, num_problems, false), num_maps, num_problems, nullptr, &ws);
}

cudaError_t estimate_pose(const MsacInput& in, const MsacOutput& out, void* workspace, cudaStream_t stream) {
  const std::int64_t bytes =
      DenseGains::count(in.maps.window_w, in.maps.window_h) * std::int64_t(sizeof(float));
  const MsacPlan plan = msac_plan(in.maps.count, in.num_problems, bytes <= largest_shared_memory());
  MsacWorkspace ws{};
  msac_workspace(plan, in.maps.count, in.num_problems, workspace, &ws);
  StreamLauncher launcher{stream};
  msac_schedule(in, out, ws, plan, launcher);
  return launcher.status;
}

}  // namespace pyloc::cuda
