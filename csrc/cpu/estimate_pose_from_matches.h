// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Pose from 2D-3D matches by MSAC over P3P hypotheses, with local optimisation.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "pyloc/camera.h"

namespace pyloc::cpu {

enum MatchPoseStatus : int {
  kMatchPoseFound = 0,
  kTooFewMatches = 1,
  kNoPoseFromMatches = 2,        // every triplet was degenerate and no initial pose was given
  kMatchPoseWithoutSupport = 3,  // too few matches agree for the pose not to be chance
  kMatchPoseNotFixed = 4,        // the inliers leave some direction of the pose open
  kMatchPoseOutOfMemory = 5,
};

struct MatchPoseProblem {
  const double* points2d;  // (N, 2), units of the camera
  const double* points3d;  // (N, 3) world
  const double* weights;   // (N,) >= 0, or null: all 1
  std::int64_t count;      // N
  Camera<double> camera;
  const double* initial;     // (K, 3, 4) or null
  std::int64_t num_initial;  // K
};

struct MatchPoseOptions {
  double max_error;         // units of points2d
  std::int64_t iterations;  // triplets; <= 0: adaptive
  double confidence;
  std::uint64_t seed;
  int num_threads;
};

struct MatchPoseResult {
  double cam_from_world[12];
  int status;
  double cost, gain;      // sum w min(r^2, T^2), and sum w T^2 less that
  double covariance[36];  // only where observed
  int observed;
  double* inlier_probability;  // (N), the caller's: 1 - min(r^2, T^2) / T^2
  std::int64_t hypothesis;     // 4 * triplet + root, or -4 * K + k for the k-th initial pose
  std::int64_t iterations;     // triplets drawn
  std::int64_t scored;         // hypotheses scored
  std::int64_t num_usable, num_consistent;
  double seconds[4];  // prepare, solve, score, refine
};

struct MatchPoseKernels {
  void (*run)(const MatchPoseProblem&, const MatchPoseOptions&, MatchPoseResult*);
  // The scoring loops alone, one thread: gain[m] of the poses (M, 3, 4), in float32 (single != 0) or
  // float64, nothing given up. For tests and benchmarks. Returns a status.
  int (*score)(const MatchPoseProblem&, double max_error, const double* poses, std::int64_t num_poses,
               int single, double* gain);
};

}  // namespace pyloc::cpu

PYLOC_DECLARE_KERNELS(MatchPoseKernels, estimate_pose_from_matches_kernels)
