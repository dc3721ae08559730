// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Graduated non-convexity over sparse loss maps (pyloc/gnc.h) with covariance and verdict.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "pyloc/camera.h"
#include "pyloc/consensus.h"
#include "pyloc/gnc.h"
#include "pyloc/loss_map.h"

namespace pyloc::cpu {

struct RefinePoseResult {
  double cam_from_world[12];
  double gain;            // sum of bilinear gains at the pose, nats
  double energy;          // E at the last sigma
  double covariance[36];  // infinite when the maps do not fix all six degrees of freedom
  double dispersion;      // the factor on the inverse curvature
  std::int64_t iterations, passes;
  int reason;  // GncReason
  Consensus consensus;
};

struct RefinePoseKernels {
  // points (N, 3), start (12) -> result, gains (N) bilinear at the result. False: out of memory.
  bool (*refine)(const LossMapsView& maps, const double* points, const Camera<double>& camera,
                 const double* start, const GncOptions& options, int num_threads, double* gains,
                 RefinePoseResult* result);
  // One pass at a fixed pose and sigma: energy, A (21, packed lower triangle), b (6). For tests and timing.
  bool (*assemble)(const LossMapsView& maps, const double* points, const Camera<double>& camera,
                   const double* pose, double sigma, int num_threads, std::int64_t repeats, double* sums);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(RefinePoseKernels, refine_pose_kernels)
