// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Compile-only: the sums, the control and the verdict of refine_pose must be device code. One block per
// problem, one thread per map, as a kernel would be laid out.
#include "pyloc/camera.h"
#include "pyloc/consensus.h"
#include "pyloc/gnc.h"
#include "pyloc/loss_map.h"
#include "pyloc/se3.h"

__global__ void shared_gnc(pyloc::LossMapsView maps, const double* points, pyloc::Camera<double> camera,
                           pyloc::GncOptions options, double* pose, double* out, pyloc::Consensus* verdict) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= maps.count) return;
  double sigmas[pyloc::kMaxSigmas];
  const int levels = pyloc::gnc_schedule(options.sigma_max, options.sigma_min, false, sigmas);
  pyloc::GncState state = pyloc::gnc_begin();
  const auto cam_from_world = pyloc::load_pose<double>(pose);
  const pyloc::Vec3<double> X{points[3 * n], points[3 * n + 1], points[3 * n + 2]};
  pyloc::Vec2<double> p;
  double J_point[6], J[12], A[21] = {}, b[6] = {}, d[6], h[3], predicted;
  if (!pyloc::project_jacobian(camera, pyloc::transform(cam_from_world, X), p, J_point)) return;
  pyloc::pose_jacobian(J_point, cam_from_world.R * X, J);
  pyloc::MapSums<float> sums{};
  pyloc::MapMoments<float> moments{};
  const float exponent = float(pyloc::gnc_exponent(sigmas[state.level]));
  for (auto i = maps.row_ptr[n]; i < maps.row_ptr[n + 1]; ++i) {
    const float rx = float(maps.xy[2 * i] - p.x), ry = float(maps.xy[2 * i + 1] - p.y);
    pyloc::add_moments(moments, rx, ry, pyloc::add_entry(sums, rx, ry, maps.gain[i], exponent));
  }
  const pyloc::MapSums<double> wide{sums.mass, sums.x, sums.y};
  pyloc::map_curvature(wide, {moments.xx, moments.xy, moments.yy}, sigmas[state.level], h);
  pyloc::add_normal(A, J, h[0], h[1], h[2]);
  for (int k = 0; k < 6; ++k) b[k] = J[k] * wide.x + J[6 + k] * wide.y;
  if (pyloc::damped_step(A, b, state.lambda, false, d, &predicted)) {
    const auto action = pyloc::gnc_after_trial(state, options, levels, out[0], out[1], 1.0, 0.5, predicted);
    if (action == pyloc::kGncAccept) pyloc::store_pose(pyloc::left_update(cam_from_world, d), pose);
  }
  const auto evidence = pyloc::map_evidence(maps, n);
  *verdict = pyloc::consensus(maps.count, pyloc::is_consistent(sums.mass, evidence.peak), evidence.share);
}
