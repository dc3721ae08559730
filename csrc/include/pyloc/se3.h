// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Rigid transforms. A pose maps world to camera: X_cam = R X_world + t. An update d = (rotation,
// translation) acts on the left: R <- exp(d[0:3]) R, t <- t + d[3:6], so that dX_cam / d(rotation) is
// -[R X]_x (without t) and dX_cam / d(translation) is the identity.
#pragma once

#include "pyloc/vec.h"

PYLOC_NAMESPACE_BEGIN

template <class T>
struct Pose {
  Mat3<T> R;
  Vec3<T> t;
};

template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> transform(const Pose<T>& cam_from_world, const Vec3<T>& X) {
  return cam_from_world.R * X + cam_from_world.t;
}

template <class T>
PYLOC_HD inline Mat3<T> so3_exp(const Vec3<T>& w) {
  const T theta2 = dot(w, w);
  T a, b;  // sin(theta) / theta and (1 - cos(theta)) / theta^2
  if (theta2 < T(1e-8)) {
    a = T(1) - theta2 / T(6);
    b = T(0.5) - theta2 / T(24);
  } else {
    const T theta = sqrt_(theta2);
    a = ::sin(theta) / theta;
    b = (T(1) - ::cos(theta)) / theta2;
  }
  return {{T(1) - b * (w.y * w.y + w.z * w.z), b * w.x * w.y - a * w.z, b * w.x * w.z + a * w.y,
           b * w.x * w.y + a * w.z, T(1) - b * (w.x * w.x + w.z * w.z), b * w.y * w.z - a * w.x,
           b * w.x * w.z - a * w.y, b * w.y * w.z + a * w.x, T(1) - b * (w.x * w.x + w.y * w.y)}};
}

// Gram-Schmidt on the rows; keeps rounding from accumulating over many updates.
template <class T>
PYLOC_HD inline void orthonormalize(Mat3<T>& R) {
  Vec3<T> a{R.m[0], R.m[1], R.m[2]}, b{R.m[3], R.m[4], R.m[5]};
  a = a * (T(1) / norm(a));
  b = b - a * dot(a, b);
  b = b * (T(1) / norm(b));
  const Vec3<T> c = cross(a, b);
  R = {{a.x, a.y, a.z, b.x, b.y, b.z, c.x, c.y, c.z}};
}

template <class T>
PYLOC_HD inline Pose<T> left_update(const Pose<T>& cam_from_world, const T d[6]) {
  Pose<T> updated{so3_exp(Vec3<T>{d[0], d[1], d[2]}) * cam_from_world.R,
                  cam_from_world.t + Vec3<T>{d[3], d[4], d[5]}};
  orthonormalize(updated.R);
  return updated;
}

// Rows of J_pose (2 x 6) = J_point (2 x 3) * [-[R X]_x | I], for a point already rotated (no t added).
template <class T>
PYLOC_HD PYLOC_INLINE void pose_jacobian(const T J_point[6], const Vec3<T>& RX, T J_pose[12]) {
  for (int r = 0; r < 2; ++r) {
    const T jx = J_point[3 * r], jy = J_point[3 * r + 1], jz = J_point[3 * r + 2];
    J_pose[6 * r + 0] = jz * RX.y - jy * RX.z;
    J_pose[6 * r + 1] = jx * RX.z - jz * RX.x;
    J_pose[6 * r + 2] = jy * RX.x - jx * RX.y;
    J_pose[6 * r + 3] = jx;
    J_pose[6 * r + 4] = jy;
    J_pose[6 * r + 5] = jz;
  }
}

// Twelve values [R | t], row by row, as arrays hold them.
template <class T, class S>
PYLOC_HD inline Pose<T> load_pose(const S* p) {
  return {{{T(p[0]), T(p[1]), T(p[2]), T(p[4]), T(p[5]), T(p[6]), T(p[8]), T(p[9]), T(p[10])}},
          {T(p[3]), T(p[7]), T(p[11])}};
}
template <class T, class S>
PYLOC_HD inline void store_pose(const Pose<T>& pose, S* p) {
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) p[4 * r + c] = S(pose.R(r, c));
  p[3] = S(pose.t.x);
  p[7] = S(pose.t.y);
  p[11] = S(pose.t.z);
}

PYLOC_NAMESPACE_END
