// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The result of a pose refinement on its way to Python.
#pragma once

#include <cstring>
#include <new>

#include "bindings/args.h"
#include "cpu/refined_pose.h"

namespace pyloc::bindings {

// pyloc_core.robust.loss_native_args: (kind, scale, alpha).
inline RobustLoss<double> loss_from(const py::tuple& values) {
  if (values.size() != 3) throw std::invalid_argument("a loss takes 3 values");
  return make_robust_loss(values[0].cast<int>(), values[1].cast<double>(), values[2].cast<double>());
}

// Runs without the GIL. `pose` (3, 4) is read and overwritten, `covariance` (6, 6) overwritten where the pose
// is observed. Gives (stop, observed, cost, effective inliers, usable, consistent, iterations).
template <class Run>
inline py::tuple refine_pose(std::uintptr_t pose, std::uintptr_t covariance, const Run& run) {
  cpu::RefinedPose result{};
  std::memcpy(result.cam_from_world, address<const double>(pose), sizeof result.cam_from_world);
  {
    const py::gil_scoped_release release;
    if (!run(result)) throw std::bad_alloc();
  }
  std::memcpy(address<double>(pose), result.cam_from_world, sizeof result.cam_from_world);
  if (result.observed) std::memcpy(address<double>(covariance), result.covariance, sizeof result.covariance);
  return py::make_tuple(result.stop, bool(result.observed), result.cost, result.effective_inliers,
                        result.num_usable, result.num_consistent, result.iterations);
}

}  // namespace pyloc::bindings
