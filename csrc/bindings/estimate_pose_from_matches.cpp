// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/estimate_pose_from_matches.h"

#include <cstring>
#include <new>

#include "bindings/args.h"
#include "bindings/binding.h"
#include "bindings/consensus_result.h"

namespace pyloc::bindings {
namespace {

cpu::MatchPoseProblem match_problem(const py::tuple& arrays, std::int64_t count, const py::tuple& camera) {
  const auto pointer = [&](std::size_t i) { return address<const double>(arrays[i].cast<std::uintptr_t>()); };
  return {pointer(0), pointer(1), pointer(2), count, camera_from(camera), nullptr, 0};
}

py::dict estimate_pose_from_matches(const py::tuple& arrays, std::int64_t count, const py::tuple& camera,
                                    std::uintptr_t initial, std::int64_t num_initial,
                                    const py::tuple& options, std::uintptr_t covariance,
                                    std::uintptr_t inlier_probability) {
  cpu::MatchPoseProblem problem = match_problem(arrays, count, camera);
  problem.initial = address<const double>(initial);
  problem.num_initial = num_initial;
  const cpu::MatchPoseOptions chosen{options[0].cast<double>(), options[1].cast<std::int64_t>(),
                                     options[2].cast<double>(), options[3].cast<std::uint64_t>(),
                                     options[4].cast<int>()};
  cpu::MatchPoseResult result{};
  result.inlier_probability = address<double>(inlier_probability);
  {
    py::gil_scoped_release release;
    cpu::estimate_pose_from_matches_kernels().run(problem, chosen, &result);
  }
  if (result.status == cpu::kMatchPoseOutOfMemory) throw std::bad_alloc();
  if (result.observed) {
    std::memcpy(address<double>(covariance), result.covariance, sizeof(result.covariance));
  }
  return consensus_dict(result);
}

void score_poses_on_matches(const py::tuple& arrays, std::int64_t count, const py::tuple& camera,
                            double max_error, std::uintptr_t poses, std::int64_t num_poses, bool single,
                            std::uintptr_t gain) {
  const cpu::MatchPoseProblem problem = match_problem(arrays, count, camera);
  int status;
  {
    py::gil_scoped_release release;
    status = cpu::estimate_pose_from_matches_kernels().score(problem, max_error, address<const double>(poses),
                                                             num_poses, single, address<double>(gain));
  }
  if (status != cpu::kMatchPoseFound) throw std::bad_alloc();
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(estimate_pose_from_matches, m) {
  m.def("estimate_pose_from_matches", &pyloc::bindings::estimate_pose_from_matches);
  m.def("score_poses_on_matches", &pyloc::bindings::score_poses_on_matches);
}
