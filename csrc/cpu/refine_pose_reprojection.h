// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/refined_pose.h"

namespace pyloc::cpu {

struct ReprojectionProblem {
  const double* points2d;   // (N, 2) in the camera's units
  const double* points3d;   // (N, 3)
  const double* weights;    // (N,) or null
  const double* whitening;  // (N, 3): lower Cholesky factors of the inverse covariances, or null
  std::int64_t count;
  Camera<double> camera;
  RobustLoss<double> loss;
  int max_iterations;
  double tolerance;
  int num_threads;
};

struct RefinePoseReprojectionKernels {
  // inlier_probability: (N,) out. False when memory ran out.
  bool (*run)(const ReprojectionProblem& problem, RefinedPose& result, double* inlier_probability);
};

}  // namespace pyloc::cpu

PYLOC_DECLARE_KERNELS(RefinePoseReprojectionKernels, refine_pose_reprojection_kernels)
