// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Compile-only: robust kernels and the Levenberg-Marquardt driver are device code.
#include "pyloc/camera.h"
#include "pyloc/levenberg.h"
#include "pyloc/robust.h"

namespace {

struct OnePoint {
  pyloc::Camera<double> camera;
  pyloc::RobustLoss<double> loss;
  pyloc::Vec3<double> X;
  pyloc::Vec2<double> x;

  __host__ __device__ bool linearize(const pyloc::Pose<double>& pose, bool,
                                     pyloc::NormalEquations<double>& eq) const {
    eq = {};
    double J_point[6], J[12];
    pyloc::Vec2<double> p;
    if (!pyloc::project_jacobian(camera, pyloc::transform(pose, X), p, J_point)) return true;
    pyloc::pose_jacobian(J_point, pose.R * X, J);
    const double rx = x.x - p.x, ry = x.y - p.y;
    const auto term = pyloc::robust_term<pyloc::kCauchy, double>((rx * rx + ry * ry) * loss.inv_scale2, loss);
    const auto adaptive =
        pyloc::robust_term<pyloc::kBarron, double>((rx * rx + ry * ry) * loss.inv_scale2, loss);
    eq.cost = loss.scale2 * (term.rho + adaptive.rho);
    for (int r = 0, i = 0; r < 6; ++r) {
      eq.b[r] = term.weight * (rx * J[r] + ry * J[6 + r]);
      for (int c = 0; c <= r; ++c, ++i) eq.A[i] = term.weight * (J[r] * J[c] + J[6 + r] * J[6 + c]);
    }
    return true;
  }
};

}  // namespace

__global__ void refine(const OnePoint* problems, double* poses) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  auto pose = pyloc::load_pose<double>(poses + 12 * i);
  pyloc::NormalEquations<double> eq;
  double covariance[36];
  pyloc::levenberg(problems[i], {20, 1e-10, 1e-20, 1.0}, pose, eq);
  if (pyloc::observed_inverse(eq.A, covariance)) pyloc::store_pose(pose, poses + 12 * i);
}
