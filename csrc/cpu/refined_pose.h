// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What the least-squares pose refinements return.
#pragma once

#include "cpu/kernels.h"
#include "pyloc/camera.h"
#include "pyloc/robust.h"

namespace pyloc::cpu {

struct RefinedPose {
  double cam_from_world[12];  // in: the start; out: the minimum
  double covariance[36];
  double cost, effective_inliers;
  std::int64_t num_usable, num_consistent;
  int iterations;
  int stop;      // LevenbergStop
  int observed;  // 0: some direction of the pose is not determined, covariance not set
};

}  // namespace pyloc::cpu
