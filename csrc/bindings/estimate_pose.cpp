// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/estimate_pose.h"

#include <new>
#include <vector>

#include "bindings/args.h"
#include "bindings/binding.h"
#include "bindings/consensus_result.h"

namespace pyloc::bindings {
namespace {

// (iterations, confidence, top_fraction, seed, num_threads)
cpu::EstimatePoseOptions options_from(const py::tuple& options) {
  return {options[0].cast<std::int64_t>(), options[1].cast<double>(), options[2].cast<double>(),
          options[3].cast<std::uint64_t>(), options[4].cast<int>()};
}

py::dict estimate_pose(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera,
                       std::uintptr_t initial, std::int64_t num_initial, const py::tuple& options,
                       std::uintptr_t map_gain) {
  const cpu::EstimatePoseProblem problem{loss_maps_from(maps), address<const double>(points),
                                         camera_from(camera), address<const double>(initial), num_initial};
  const cpu::EstimatePoseOptions chosen = options_from(options);
  cpu::EstimatePoseResult result{};
  result.map_gain = address<double>(map_gain);
  {
    py::gil_scoped_release release;
    cpu::estimate_pose_kernels().run(problem, chosen, &result);
  }
  if (result.status == cpu::kPoseOutOfMemory) throw std::bad_alloc();
  return consensus_dict(result);
}

// cameras (1 or B, 13) and the outputs of pyloc_core.ops.estimate_pose, in its order.
void estimate_pose_batch(const py::tuple& maps, std::uintptr_t points, std::uintptr_t cameras,
                         std::int64_t num_cameras, std::uintptr_t initial, std::int64_t num_initial,
                         std::uintptr_t problem_ptr, std::int64_t num_problems, const py::tuple& options,
                         const py::tuple& outputs) {
  std::vector<Camera<double>> cams;
  for (std::int64_t i = 0; i < num_cameras; ++i)
    cams.push_back(load_camera(address<const double>(cameras) + 13 * i));
  const cpu::EstimatePoseBatch batch{loss_maps_from(maps),
                                     address<const double>(points),
                                     cams.data(),
                                     address<const double>(initial),
                                     address<const std::int64_t>(problem_ptr),
                                     num_cameras,
                                     num_initial,
                                     num_problems};
  const cpu::EstimatePoseOptions chosen = options_from(options);
  std::vector<cpu::EstimatePoseResult> results(static_cast<std::size_t>(num_problems));
  std::uintptr_t out[8];
  for (std::size_t i = 0; i < 8; ++i) out[i] = outputs[i].cast<std::uintptr_t>();
  py::gil_scoped_release release;
  cpu::estimate_pose_kernels().run_batch(batch, chosen, address<double>(out[7]), results.data());
  for (std::size_t b = 0; b < results.size(); ++b) {
    const cpu::EstimatePoseResult& found = results[b];
    if (found.status == cpu::kPoseOutOfMemory) throw std::bad_alloc();
    for (std::size_t i = 0; i < 12; ++i) address<double>(out[0])[12 * b + i] = found.cam_from_world[i];
    address<std::int32_t>(out[1])[b] = found.status;
    address<double>(out[2])[b] = found.cost;
    address<double>(out[3])[b] = found.gain;
    address<std::int32_t>(out[4])[b] = static_cast<std::int32_t>(found.iterations);
    address<std::int32_t>(out[5])[b] = static_cast<std::int32_t>(found.num_usable);
    address<std::int32_t>(out[6])[b] = static_cast<std::int32_t>(found.num_consistent);
  }
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(estimate_pose, m) {
  m.def("estimate_pose", &pyloc::bindings::estimate_pose);
  m.def("estimate_pose_batch", &pyloc::bindings::estimate_pose_batch);
}
