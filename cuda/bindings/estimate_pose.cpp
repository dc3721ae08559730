// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/estimate_pose.h"

#include "cuda/bindings/launch.h"

namespace pyloc::bindings {
namespace {

// camera: 13 values, or none where `cameras` holds (B, 13). options: iterations, confidence, top_fraction,
// seed. outputs: the arrays of pyloc_core.ops.estimate_pose, in its order.
void estimate_pose(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera,
                   std::uintptr_t cameras, std::uintptr_t problem_ptr, std::int64_t num_problems,
                   std::uintptr_t initial, std::int64_t num_initial, const py::tuple& options,
                   const py::tuple& outputs, std::uintptr_t workspace, int device, std::uintptr_t stream) {
  MsacInput in{};
  in.maps = loss_maps_from(maps);
  in.points = address<const double>(points);
  in.cameras = address<const double>(cameras);
  if (!in.cameras) in.camera = camera_from(camera);
  in.problem_ptr = address<const std::int64_t>(problem_ptr);
  in.initial = address<const double>(initial);
  in.num_problems = num_problems;
  in.num_initial = num_initial;
  in.iterations = options[0].cast<std::int64_t>();
  in.confidence = options[1].cast<double>();
  in.top_fraction = options[2].cast<double>();
  in.seed = options[3].cast<std::uint64_t>();
  std::uintptr_t out[8];
  for (std::size_t i = 0; i < 8; ++i) out[i] = outputs[i].cast<std::uintptr_t>();
  const MsacOutput found{address<double>(out[0]),       address<std::int32_t>(out[1]),
                         address<double>(out[2]),       address<double>(out[3]),
                         address<std::int32_t>(out[4]), address<std::int32_t>(out[5]),
                         address<std::int32_t>(out[6]), address<double>(out[7])};
  py::gil_scoped_release release;
  const Launch launch(device, stream);
  check_cuda(cuda::estimate_pose(in, found, address<void>(workspace), launch.stream()), "estimate_pose");
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(estimate_pose, m) {
  m.def("estimate_pose", &pyloc::bindings::estimate_pose);
  m.def("estimate_pose_workspace", &pyloc::cuda::estimate_pose_workspace);
}
