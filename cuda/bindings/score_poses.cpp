// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/score_poses.h"

#include "cuda/bindings/launch.h"

namespace pyloc::bindings {
namespace {

// camera: 13 values, or none where `cameras` holds (B, 13). poses (B, M, 3, 4) -> cost (B, M).
void score_poses(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera,
                 std::uintptr_t cameras, std::uintptr_t problem_ptr, std::int64_t num_problems,
                 std::uintptr_t poses, std::int64_t num_poses, std::uintptr_t cost, std::uintptr_t workspace,
                 int device, std::uintptr_t stream) {
  ScoreInput in{};
  in.problem.maps = loss_maps_from(maps);
  in.problem.points = address<const double>(points);
  in.problem.cameras = address<const double>(cameras);
  if (!in.problem.cameras) in.problem.camera = camera_from(camera);
  in.problem.problem_ptr = address<const std::int64_t>(problem_ptr);
  in.problem.num_problems = num_problems;
  in.cam_from_world = address<const double>(poses);
  in.num_poses = num_poses;
  py::gil_scoped_release release;
  const Launch launch(device, stream);
  check_cuda(cuda::score_poses(in, address<double>(cost), address<void>(workspace), launch.stream()),
             "score_poses");
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(score_poses, m) {
  m.def("score_poses", &pyloc::bindings::score_poses);
  m.def("score_poses_workspace", &pyloc::cuda::score_poses_workspace);
}
