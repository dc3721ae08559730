// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Batched projection and its inverse, float64, arrays of structures.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "pyloc/camera.h"

namespace pyloc::cpu {
struct CameraKernels {
  // points (count, 3) in the camera frame -> xy (count, 2), valid (count); NaN where not valid.
  void (*project)(const Camera<double>& camera, const double* points, std::int64_t count, double* xy,
                  std::uint8_t* valid);
  // xy (count, 2) -> unit bearings (count, 3).
  void (*unproject)(const Camera<double>& camera, const double* xy, std::int64_t count, double* bearings);
};
}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(CameraKernels, camera_kernels)
