// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Initial pose from loss maps by MSAC over P3P hypotheses (thesis, section 4.4.1).
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "pyloc/camera.h"
#include "pyloc/loss_map.h"

namespace pyloc::cpu {

enum EstimatePoseStatus : int {
  kPoseFound = 0,
  kTooFewUsableMaps = 1,
  kNoPoseFromTriplets = 2,  // every triplet was degenerate and no initial pose was given
  kPoseWithoutSupport = 3,  // too few maps agree for the pose not to be chance
  kPoseOutOfMemory = 4,
};

struct EstimatePoseProblem {
  LossMapsView maps;         // N maps
  const double* points;      // (N, 3) world
  Camera<double> camera;     // map coordinates
  const double* initial;     // (K, 3, 4) or null
  std::int64_t num_initial;  // K
};

struct EstimatePoseOptions {
  std::int64_t iterations;  // triplets; <= 0: adaptive
  double confidence;
  double top_fraction;
  std::uint64_t seed;
  int num_threads;
};

struct EstimatePoseResult {
  double cam_from_world[12];
  int status;
  double cost, gain;        // Eq. 4.6 over all N maps, nats
  double* map_gain;         // (N), the caller's: bilinear gain of every map
  std::int64_t hypothesis;  // 4 * triplet + root, or -4 * K + k for the k-th initial pose
  std::int64_t iterations;  // triplets drawn
  std::int64_t scored;      // hypotheses scored
  std::int64_t num_usable, num_consistent;
  double seconds[4];  // prepare, solve, score, finish
};

// B problems, one after the other in the arrays.
struct EstimatePoseBatch {
  LossMapsView maps;                // N maps of all problems
  const double* points;             // (N, 3) world
  const Camera<double>* cameras;    // (1) or (B)
  const double* initial;            // (B, K, 3, 4) or null
  const std::int64_t* problem_ptr;  // (B + 1), rising from 0 to N
  std::int64_t num_cameras, num_initial, num_problems;
};

struct EstimatePoseKernels {
  void (*run)(const EstimatePoseProblem&, const EstimatePoseOptions&, EstimatePoseResult*);
  // results (B), each with a finite pose; map_gain (N), zeros on entry.
  void (*run_batch)(const EstimatePoseBatch&, const EstimatePoseOptions&, double* map_gain,
                    EstimatePoseResult* results);
};

}  // namespace pyloc::cpu

PYLOC_DECLARE_KERNELS(EstimatePoseKernels, estimate_pose_kernels)
