// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The GPU's phases of estimate_pose and score_poses run on the CPU, block after block, a block being one
// thread: for the tests.
#include <cstdint>
#include <vector>

#include "bindings/args.h"
#include "bindings/binding.h"
#include "bindings/msac_args.h"
#include "pyloc/msac_schedule.h"
#include "pyloc/score_schedule.h"

namespace pyloc::bindings {
namespace {

struct SerialLauncher {
  std::vector<float> cells;

  template <class Phase>
  bool run(const Phase& phase, std::int64_t blocks) {
    typename Phase::template Shared<1> shared;
    for (std::int64_t block = 0; block < blocks; ++block) phase.run(SerialGroup{}, shared, block);
    return true;
  }
  template <class Phase>
  bool run_dense(const Phase& phase, std::int64_t blocks, std::int64_t count) {
    cells.resize(static_cast<std::size_t>(count));
    typename Phase::template Shared<1> shared;
    for (std::int64_t block = 0; block < blocks; ++block)
      phase.run(SerialGroup{}, shared, block, cells.data());
    return true;
  }
};

// Arguments and outputs as of estimate_pose_batch, but inlier_probability in place of the gains.
void estimate_pose_phases(const py::tuple& maps, std::uintptr_t points, std::uintptr_t cameras,
                          std::uintptr_t initial, std::int64_t num_initial, std::uintptr_t problem_ptr,
                          std::int64_t num_problems, const py::tuple& options, const py::tuple& outputs,
                          bool dense) {
  MsacInput in =
      bindings::msac_input(maps, points, cameras, problem_ptr, num_problems, initial, num_initial, options);
  const MsacOutput found = bindings::msac_output(outputs);
  const MsacPlan plan = msac_plan(in.maps.count, num_problems, dense);
  MsacWorkspace ws{};
  std::vector<double> memory(msac_workspace(plan, in.maps.count, num_problems, nullptr, &ws) / 8 + 32);
  msac_workspace(plan, in.maps.count, num_problems, memory.data(), &ws);
  SerialLauncher launcher;
  msac_schedule(in, found, ws, plan, launcher);
}

// cam_from_world (B, M, 3, 4) -> cost (B, M).
void score_poses_phases(const py::tuple& maps, std::uintptr_t points, std::uintptr_t cameras,
                        std::uintptr_t poses, std::int64_t num_poses, std::uintptr_t problem_ptr,
                        std::int64_t num_problems, bool dense, std::uintptr_t cost) {
  ScoreInput in{};
  in.problem.maps = loss_maps_from(maps);
  in.problem.points = address<const double>(points);
  in.problem.cameras = address<const double>(cameras);
  in.problem.problem_ptr = address<const std::int64_t>(problem_ptr);
  in.problem.num_problems = num_problems;
  in.cam_from_world = address<const double>(poses);
  in.num_poses = num_poses;
  const std::int64_t N = in.problem.maps.count;
  const ScorePlan plan = score_plan(N, num_problems, num_poses, dense);
  ScoreWorkspace ws{};
  std::vector<double> memory(score_workspace(plan, N, num_problems, nullptr, &ws) / 8 + 32);
  score_workspace(plan, N, num_problems, memory.data(), &ws);
  SerialLauncher launcher;
  score_schedule(in, ws, plan, address<double>(cost), launcher);
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(phases, m) {
  m.def("score_poses_phases", &pyloc::bindings::score_poses_phases);
  m.def("estimate_pose_phases", &pyloc::bindings::estimate_pose_phases);
}
