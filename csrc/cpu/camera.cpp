// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/camera.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

void project_points(const Camera<double>& camera, const double* points, std::int64_t count, double* xy,
                    std::uint8_t* valid) {
  for (std::int64_t i = 0; i < count; ++i) {
    Vec2<double> p;
    const bool ok = project(camera, Vec3<double>{points[3 * i], points[3 * i + 1], points[3 * i + 2]}, p);
    valid[i] = ok;
    xy[2 * i] = ok ? p.x : NAN;
    xy[2 * i + 1] = ok ? p.y : NAN;
  }
}

void unproject_points(const Camera<double>& camera, const double* xy, std::int64_t count, double* bearings) {
  for (std::int64_t i = 0; i < count; ++i) {
    const Vec3<double> ray = unproject(camera, Vec2<double>{xy[2 * i], xy[2 * i + 1]});
    bearings[3 * i] = ray.x;
    bearings[3 * i + 1] = ray.y;
    bearings[3 * i + 2] = ray.z;
  }
}

}  // namespace

const CameraKernels& camera_kernels() {
  static constexpr CameraKernels kernels{&project_points, &unproject_points};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
