// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/refine_pose_featuremetric.h"

#include "bindings/args.h"
#include "bindings/refined_pose.h"

using namespace pyloc;

PYLOC_BINDING(refine_pose_featuremetric, m) {
  m.def("refine_pose_featuremetric",
        [](std::uintptr_t descriptors, std::uintptr_t points3d, std::uintptr_t weights, std::int64_t count,
           std::uintptr_t features, int dtype, bool channels_last, std::int64_t channels, int height,
           int width, bool normalized, const bindings::py::tuple& camera, const bindings::py::tuple& loss,
           int max_iterations, double tolerance, int num_threads, std::uintptr_t pose,
           std::uintptr_t covariance, std::uintptr_t inlier_probability) {
          const cpu::FeaturemetricProblem problem{bindings::address<const float>(descriptors),
                                                  bindings::address<const double>(points3d),
                                                  bindings::address<const double>(weights),
                                                  count,
                                                  bindings::address<const void>(features),
                                                  dtype,
                                                  channels_last,
                                                  channels,
                                                  height,
                                                  width,
                                                  normalized,
                                                  bindings::camera_from(camera),
                                                  bindings::loss_from(loss),
                                                  max_iterations,
                                                  tolerance,
                                                  num_threads};
          auto* probability = bindings::address<double>(inlier_probability);
          return bindings::refine_pose(pose, covariance, [&](cpu::RefinedPose& result) {
            return cpu::refine_pose_featuremetric_kernels().run(problem, result, probability);
          });
        });
}
