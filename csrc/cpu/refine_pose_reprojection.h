// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/kernels.h"
#include "pyloc/camera.h"
#include "pyloc/robust.h"

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

// Shared by the pose refinements.
struct RefinedPose {
  double cam_from_world[12];  // in: the start; out: the minimum
  double covariance[36];
  double cost, effective_inliers;
  std::int64_t num_usable, num_consistent;
  int iterations;
  int stop;      // LevenbergStop
  int observed;  // 0: some direction of the pose is not determined, covariance not set
};

struct RefinePoseReprojectionKernels {
  // inlier_probability: (N,) out. False when memory ran out.
  bool (*run)(const ReprojectionProblem& problem, RefinedPose& result, double* inlier_probability);
};

}  // namespace pyloc::cpu

PYLOC_DECLARE_KERNELS(RefinePoseReprojectionKernels, refine_pose_reprojection_kernels)
