// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Projects a point and brings it back with the installed headers; exits non-zero when that fails.
#include <cmath>
#include <cstdio>

#include "pyloc/camera.h"
#include "pyloc/se3.h"

int main() {
  const pyloc::Camera<double> camera{pyloc::kOpenCV, 500, 510, 320, 240, {-0.05, 0.01, 1e-3, -1e-3}};
  const pyloc::Pose<double> cam_from_world{pyloc::so3_exp(pyloc::Vec3<double>{0.1, -0.2, 0.3}),
                                           {0.1, 0.2, 4.0}};
  const pyloc::Vec3<double> X = pyloc::transform(cam_from_world, pyloc::Vec3<double>{0.3, -0.4, 0.5});
  pyloc::Vec2<double> xy;
  if (!pyloc::project(camera, X, xy)) return 1;
  const pyloc::Vec3<double> bearing = pyloc::unproject(camera, xy);
  const double error = pyloc::norm(bearing * pyloc::norm(X) - X);
  std::printf("pixel (%.3f, %.3f), error of the inverse %.1e\n", xy.x, xy.y, error);
  return error < 1e-9 ? 0 : 1;
}
