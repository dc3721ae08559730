// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Compile-only: the shared headers must be device code on every listed architecture.
#include "pyloc/bilinear.h"
#include "pyloc/camera.h"
#include "pyloc/linalg.h"
#include "pyloc/random.h"
#include "pyloc/se3.h"

__global__ void shared_geometry(const double* poses, const double* points, pyloc::Camera<double> camera,
                                double* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const auto cam_from_world = pyloc::load_pose<double>(poses + 12 * i);
  const pyloc::Vec3<double> X{points[0], points[1], points[2]};
  pyloc::Vec2<double> xy;
  double J_point[6], J[12], A[36], x[6];
  if (!pyloc::project_jacobian(camera, pyloc::transform(cam_from_world, X), xy, J_point)) return;
  pyloc::pose_jacobian(J_point, cam_from_world.R * X, J);
  for (int r = 0; r < 6; ++r)
    for (int c = 0; c < 6; ++c) A[6 * r + c] = J[r] * J[c] + J[6 + r] * J[6 + c] + (r == c);
  int triplet[3];
  pyloc::sample_triplet(1, i, 100, triplet);
  pyloc::BilinearTaps<double> taps;
  if (pyloc::bilinear_taps(xy, 100, 75, taps) && pyloc::cholesky_solve<6>(A, J, x)) {
    pyloc::store_pose(pyloc::left_update(cam_from_world, x), out + 12 * i);
    const auto ray = pyloc::unproject(camera, xy);
    out[12 * i] += taps.weight[0] + triplet[0] + ray.x;
  }
}
