// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What the least-squares pose refinements share on the CPU: projection of packs of points with its Jacobian,
// and the sums of the normal equations.
#pragma once

#include "cpu/simd_math.h"
#include "pyloc/camera.h"
#include "pyloc/levenberg.h"

PYLOC_NAMESPACE_BEGIN

// A pack of points in the image: coordinates, d xy / d X_cam (2 x 3), and which lanes are in front.
struct ProjectedPack {
  Vec2<PackD> xy;
  PackD J[6];
  PackMask<double> front;
};

// Fisheye needs atan2, and few cameras have it: lane by lane.
inline void project_fisheye_lanes(const Camera<double>& cam, const Vec3<PackD>& X, ProjectedPack& out) {
  for (int i = 0; i < PackD::kWidth; ++i) {
    Vec2<double> xy{0.0, 0.0};
    double J[6] = {0, 0, 0, 0, 0, 0};
    const bool front = project_jacobian(cam, Vec3<double>{X.x[i], X.y[i], X.z[i]}, xy, J);
    out.front.raw[i] = front ? -1 : 0;
    out.xy.x.set(i, xy.x);
    out.xy.y.set(i, xy.y);
    for (int k = 0; k < 6; ++k) out.J[k].set(i, J[k]);
  }
}

// Lanes behind the camera get the projection of depth 1, which the mask tells the caller to ignore.
PYLOC_INLINE void project_pack(const Camera<double>& cam, const Vec3<PackD>& X, ProjectedPack& out) {
  if (cam.kind == kFisheye) return project_fisheye_lanes(cam, X, out);
  out.front = X.z > 0.0;
  const PackD inv_z = PackD(1.0) / select(out.front, X.z, PackD(1.0));
  const PackD u = X.x * inv_z, v = X.y * inv_z;
  PackD ud = u, vd = v, D[4] = {PackD(1.0), PackD(0.0), PackD(0.0), PackD(1.0)};
  if (cam.kind == kOpenCV) {
    PackD d[8];
    for (int k = 0; k < 8; ++k) d[k] = PackD(cam.d[k]);
    distort_opencv(d, u, v, ud, vd, D);
  }
  out.xy = {PackD(cam.fx) * ud + PackD(cam.cx), PackD(cam.fy) * vd + PackD(cam.cy)};
  for (int r = 0; r < 2; ++r) {
    const PackD f = PackD(r == 0 ? cam.fx : cam.fy) * inv_z;
    out.J[3 * r + 0] = f * D[2 * r];
    out.J[3 * r + 1] = f * D[2 * r + 1];
    out.J[3 * r + 2] = -(f * (D[2 * r] * u + D[2 * r + 1] * v));
  }
  out.front = mask_and(out.front, isfinite_(out.xy.x + out.xy.y));
}

PYLOC_INLINE Vec3<PackD> rotate_pack(const Mat3<double>& R, const Vec3<PackD>& X) {
  return {PackD(R.m[0]) * X.x + PackD(R.m[1]) * X.y + PackD(R.m[2]) * X.z,
          PackD(R.m[3]) * X.x + PackD(R.m[4]) * X.y + PackD(R.m[5]) * X.z,
          PackD(R.m[6]) * X.x + PackD(R.m[7]) * X.y + PackD(R.m[8]) * X.z};
}

// A point's quadratic model in the image: cost ~ rho - 2 g . p + p^T M p for a shift p of its projection.
struct ImageTerm {
  PackD rho, gx, gy, mxx, mxy, myy;
};

// Sums over points of J^T M J, J^T g and rho, J = J_point [-[R X]_x | I] (2 x 6).
struct NormalPack {
  PackD A[21], b[6], cost;

  PYLOC_INLINE NormalPack() {
    for (PackD& a : A) a = PackD(0.0);
    for (PackD& a : b) a = PackD(0.0);
    cost = PackD(0.0);
  }

  PYLOC_INLINE void add(const ImageTerm& term, const PackD J_point[6], const Vec3<PackD>& RX) {
    PackD J[12];
    pose_jacobian(J_point, RX, J);
    cost += term.rho;
    for (int r = 0, i = 0; r < 6; ++r) {
      const PackD mx = term.mxx * J[r] + term.mxy * J[6 + r];
      const PackD my = term.mxy * J[r] + term.myy * J[6 + r];
      for (int c = 0; c <= r; ++c, ++i) A[i] += mx * J[c] + my * J[6 + c];
      b[r] += term.gx * J[r] + term.gy * J[6 + r];
    }
  }

  inline void store(NormalEquations<double>& out) const {
    for (int i = 0; i < 21; ++i) out.A[i] = reduce_add(A[i]);
    for (int i = 0; i < 6; ++i) out.b[i] = reduce_add(b[i]);
    out.cost = reduce_add(cost);
  }
};

inline void add_equations(NormalEquations<double>& sum, const NormalEquations<double>& part) {
  for (int i = 0; i < 21; ++i) sum.A[i] += part.A[i];
  for (int i = 0; i < 6; ++i) sum.b[i] += part.b[i];
  sum.cost += part.cost;
}

// The points are moved so that their mean is the origin: rotation and translation then hardly correlate,
// however far from the world's origin the model lies. `center` is that mean; X_cam = R (X - m) + (R m + t).
inline Vec3<double> mean_point(const double* points3d, std::int64_t count) {
  const double share = 1.0 / double(count);  // applied to each point: a sum of huge ones could overflow
  Vec3<double> sum{0, 0, 0};
  for (std::int64_t n = 0; n < count; ++n) {
    sum.x += points3d[3 * n] * share;
    sum.y += points3d[3 * n + 1] * share;
    sum.z += points3d[3 * n + 2] * share;
  }
  return sum;
}
inline Pose<double> centered_pose(const Pose<double>& cam_from_world, const Vec3<double>& center) {
  return {cam_from_world.R, cam_from_world.R * center + cam_from_world.t};
}
inline Pose<double> world_pose(const Pose<double>& cam_from_centered, const Vec3<double>& center) {
  return {cam_from_centered.R, cam_from_centered.t - cam_from_centered.R * center};
}

// Covariance of (rotation, translation) from the centred frame to the world's: with m the mean rotated into
// the camera, t = t_centred - exp(w) m gives d_t = d_t_centred + m x w.
inline void uncenter_covariance(const Vec3<double>& m, double covariance[36]) {
  const double skew[9] = {0, -m.z, m.y, m.z, 0, -m.x, -m.y, m.x, 0};
  for (int side = 0; side < 2; ++side) {  // rows, then columns, of T C T^T
    const int row = side == 0 ? 6 : 1, col = side == 0 ? 1 : 6;
    for (int c = 0; c < 6; ++c)
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k)
          covariance[(r + 3) * row + c * col] += skew[3 * r + k] * covariance[k * row + c * col];
  }
}

PYLOC_NAMESPACE_END
