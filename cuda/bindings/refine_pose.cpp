// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/refine_pose.h"

#include "cuda/bindings/launch.h"

using namespace pyloc;
using bindings::address;

PYLOC_BINDING(refine_pose, m) {
  namespace py = bindings::py;
  // Bytes of the workspace for (room for entries, maps).
  m.def("refine_pose_workspace", &gnc_workspace_bytes);
  // outputs: cam_from_world, scores, covariance, counts, success, inlier probability (pyloc/gnc_batch.h).
  // `cameras`: address of (B, 13), or 0 for `camera`; `problem_ptr` 0: one problem.
  m.def("refine_pose", [](const py::tuple& maps, std::uintptr_t points, const py::tuple& camera,
                          std::uintptr_t cameras, std::uintptr_t problem_ptr, std::int64_t problems,
                          std::uintptr_t start, const py::tuple& options, const py::tuple& outputs,
                          std::uintptr_t workspace, int device, std::uintptr_t stream) {
    GncBatch batch{};
    batch.maps = bindings::loss_maps_from(maps);
    batch.problems = problems;
    batch.problem_ptr = address<const std::int64_t>(problem_ptr);
    batch.points = address<const double>(points);
    batch.cameras = address<const double>(cameras);
    if (cameras == 0) batch.camera = bindings::camera_from(camera);
    batch.start = address<const double>(start);
    batch.options = {options[0].cast<double>(), options[1].cast<double>(), options[2].cast<std::int64_t>(),
                     options[3].cast<double>(), options[4].cast<double>(), 0};
    const auto output = [&](std::size_t i) { return outputs[i].cast<std::uintptr_t>(); };
    batch.cam_from_world = address<double>(output(0));
    batch.scores = address<double>(output(1));
    batch.covariance = address<double>(output(2));
    batch.counts = address<std::int32_t>(output(3));
    batch.success = address<std::uint8_t>(output(4));
    batch.inlier = address<double>(output(5));
    batch.workspace = address<void>(workspace);
    const py::gil_scoped_release release;
    const bindings::Launch launch(device, stream);
    bindings::check_cuda(cuda::refine_pose(batch, launch.stream()), "refine_pose");
  });
}
