// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Batched P3P (pyloc/p3p.h), one problem per SIMD lane.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {
struct P3pKernels {
  // bearings (count, 3, 3), points (count, 3, 3) -> cam_from_world (count, 4, 3, 4), valid (count, 4):
  // 1 for solutions, which come first, and 0 for empty slots, whose poses are zero. Runs on the calling
  // thread. Any alignment; outputs must not overlap inputs. Bits do not depend on where in the batch a
  // problem stands.
  void (*solve_f64)(const double* bearings, const double* points, std::int64_t count, double* cam_from_world,
                    std::uint8_t* valid);
  void (*solve_f32)(const float* bearings, const float* points, std::int64_t count, float* cam_from_world,
                    std::uint8_t* valid);
  // The same on several threads of the pool.
  void (*solve_threaded_f64)(const double* bearings, const double* points, std::int64_t count,
                             double* cam_from_world, std::uint8_t* valid, int num_threads);
  void (*solve_threaded_f32)(const float* bearings, const float* points, std::int64_t count,
                             float* cam_from_world, std::uint8_t* valid, int num_threads);
};
}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(P3pKernels, p3p_kernels)
