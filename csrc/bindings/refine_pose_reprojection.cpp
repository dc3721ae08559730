// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/refine_pose_reprojection.h"

#include "bindings/args.h"
#include "bindings/refined_pose.h"

using namespace pyloc;

PYLOC_BINDING(refine_pose_reprojection, m) {
  m.def("refine_pose_reprojection",
        [](std::uintptr_t points2d, std::uintptr_t points3d, std::uintptr_t weights, std::uintptr_t whitening,
           std::int64_t count, const bindings::py::tuple& camera, const bindings::py::tuple& loss,
           int max_iterations, double tolerance, int num_threads, std::uintptr_t pose,
           std::uintptr_t covariance, std::uintptr_t inlier_probability) {
          const cpu::ReprojectionProblem problem{bindings::address<const double>(points2d),
                                                 bindings::address<const double>(points3d),
                                                 bindings::address<const double>(weights),
                                                 bindings::address<const double>(whitening),
                                                 count,
                                                 bindings::camera_from(camera),
                                                 bindings::loss_from(loss),
                                                 max_iterations,
                                                 tolerance,
                                                 num_threads};
          auto* probability = bindings::address<double>(inlier_probability);
          return bindings::refine_pose(pose, covariance, [&](cpu::RefinedPose& result) {
            return cpu::refine_pose_reprojection_kernels().run(problem, result, probability);
          });
        });
}
