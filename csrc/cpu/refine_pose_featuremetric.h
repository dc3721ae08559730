// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/refined_pose.h"

namespace pyloc::cpu {

struct FeaturemetricProblem {
  const float* descriptors;  // (N, D); of unit length when `normalized`
  const double* points3d;    // (N, 3)
  const double* weights;     // (N,) or null
  std::int64_t count;
  const void* features;  // (D, H, W), or (H, W, D) when channels_last
  int dtype;
  bool channels_last;
  std::int64_t channels;
  int height, width;
  bool normalized;        // features are brought to unit length after interpolation
  Camera<double> camera;  // in map cells
  RobustLoss<double> loss;
  int max_iterations;
  double tolerance;
  int num_threads;
};

struct RefinePoseFeaturemetricKernels {
  // inlier_probability: (N,) out. False when memory ran out.
  bool (*run)(const FeaturemetricProblem& problem, RefinedPose& result, double* inlier_probability);
};

}  // namespace pyloc::cpu

PYLOC_DECLARE_KERNELS(RefinePoseFeaturemetricKernels, refine_pose_featuremetric_kernels)
