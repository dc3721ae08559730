// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Eq. 4.6 of many poses on loss maps, in float32: the scoring loop of estimate_pose by itself.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "pyloc/camera.h"
#include "pyloc/loss_map.h"

namespace pyloc::cpu {

struct ScorePosesProblem {
  LossMapsView maps;             // N maps
  const double* points;          // (N, 3) world
  Camera<double> camera;         // map coordinates
  const double* cam_from_world;  // (M, 3, 4)
  std::int64_t num_poses;        // M
};

struct ScorePosesKernels {
  // gain (M): summed over all N maps, nats. False when memory ran out.
  bool (*run)(const ScorePosesProblem&, int num_threads, float* gain);
};

}  // namespace pyloc::cpu

PYLOC_DECLARE_KERNELS(ScorePosesKernels, score_poses_kernels)
