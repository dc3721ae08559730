// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/estimate_pose.h"

#include <new>

#include "bindings/args.h"
#include "bindings/binding.h"
#include "bindings/consensus_result.h"

namespace pyloc::bindings {
namespace {

py::dict estimate_pose(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera,
                       std::uintptr_t initial, std::int64_t num_initial, const py::tuple& options,
                       std::uintptr_t map_gain) {
  const cpu::EstimatePoseProblem problem{loss_maps_from(maps), address<const double>(points),
                                         camera_from(camera), address<const double>(initial), num_initial};
  const cpu::EstimatePoseOptions chosen{options[0].cast<std::int64_t>(), options[1].cast<double>(),
                                        options[2].cast<double>(), options[3].cast<std::uint64_t>(),
                                        options[4].cast<int>()};
  cpu::EstimatePoseResult result{};
  result.map_gain = address<double>(map_gain);
  {
    py::gil_scoped_release release;
    cpu::estimate_pose_kernels().run(problem, chosen, &result);
  }
  if (result.status == cpu::kPoseOutOfMemory) throw std::bad_alloc();
  return consensus_dict(result);
}

void score_poses(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera, std::uintptr_t poses,
                 std::int64_t num_poses, std::uintptr_t gain) {
  const cpu::EstimatePoseProblem problem{loss_maps_from(maps), address<const double>(points),
                                         camera_from(camera), nullptr, 0};
  int status;
  {
    py::gil_scoped_release release;
    status = cpu::estimate_pose_kernels().score(problem, address<const double>(poses), num_poses,
                                                address<float>(gain));
  }
  if (status != cpu::kPoseFound) throw std::bad_alloc();
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(estimate_pose, m) {
  m.def("estimate_pose", &pyloc::bindings::estimate_pose);
  m.def("score_poses", &pyloc::bindings::score_poses);
}
