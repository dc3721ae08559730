// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/estimate_pose.h"

#include "bindings/msac_args.h"
#include "cuda/bindings/launch.h"

namespace pyloc::bindings {
namespace {

// camera: 13 values, or none where `cameras` holds (B, 13). options: iterations, confidence, top_fraction,
// seed. outputs: the arrays of pyloc_core.ops.estimate_pose, in its order.
void estimate_pose(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera,
                   std::uintptr_t cameras, std::uintptr_t problem_ptr, std::int64_t num_problems,
                   std::uintptr_t initial, std::int64_t num_initial, const py::tuple& options,
                   const py::tuple& outputs, std::uintptr_t workspace, int device, std::uintptr_t stream) {
  MsacInput in =
      bindings::msac_input(maps, points, cameras, problem_ptr, num_problems, initial, num_initial, options);
  if (!in.cameras) in.camera = camera_from(camera);
  const MsacOutput found = bindings::msac_output(outputs);
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
