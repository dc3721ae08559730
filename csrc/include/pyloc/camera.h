// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Camera models. One canonical form serves COLMAP's SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL,
// OPENCV, FULL_OPENCV (rational and tangential) and SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE,
// OPENCV_FISHEYE (equidistant with an odd polynomial). Coordinates are those of the intrinsics: image
// pixels, or map cells after the conversion in pyloc_core/geometry.py.
#pragma once

#include "pyloc/vec.h"

// Plain data that crosses from the bindings into kernels of any instruction set, hence one type for all.
namespace pyloc {

enum CameraKind : int { kPinhole = 0, kOpenCV = 1, kFisheye = 2 };

template <class T>
struct Camera {
  int kind;
  T fx, fy, cx, cy;
  T d[8];  // kOpenCV: k1 k2 p1 p2 k3 k4 k5 k6 (FULL_OPENCV's order); kFisheye: k1 k2 k3 k4
};

}  // namespace pyloc

PYLOC_NAMESPACE_BEGIN

template <class T, class S>
PYLOC_HD inline Camera<T> convert(const Camera<S>& cam) {
  Camera<T> out{cam.kind, T(cam.fx), T(cam.fy), T(cam.cx), T(cam.cy), {}};
  for (int i = 0; i < 8; ++i) out.d[i] = T(cam.d[i]);
  return out;
}

// From 13 values in a row, as arrays hold cameras: kind, fx, fy, cx, cy, d.
PYLOC_HD inline Camera<double> load_camera(const double* v) {
  Camera<double> cam{int(v[0]), v[1], v[2], v[3], v[4], {}};
  for (int i = 0; i < 8; ++i) cam.d[i] = v[5 + i];
  return cam;
}

// Distortion of normalized coordinates (u, v) with its 2 x 2 Jacobian (row-major).
template <class T>
PYLOC_HD inline void distort_opencv(const T* d, T u, T v, T& ud, T& vd, T J[4]) {
  const T r2 = u * u + v * v;
  const T num = T(1) + r2 * (d[0] + r2 * (d[1] + r2 * d[4]));
  const T den = T(1) + r2 * (d[5] + r2 * (d[6] + r2 * d[7]));
  const T dnum = d[0] + r2 * (T(2) * d[1] + r2 * T(3) * d[4]);  // d num / d r2
  const T dden = d[5] + r2 * (T(2) * d[6] + r2 * T(3) * d[7]);
  const T radial = num / den, dradial = (dnum - radial * dden) / den;
  const T p1 = d[2], p2 = d[3];
  ud = u * radial + T(2) * p1 * u * v + p2 * (r2 + T(2) * u * u);
  vd = v * radial + p1 * (r2 + T(2) * v * v) + T(2) * p2 * u * v;
  const T mixed = T(2) * u * v * dradial + T(2) * (p1 * u + p2 * v);
  J[0] = radial + T(2) * u * u * dradial + T(2) * p1 * v + T(6) * p2 * u;
  J[1] = mixed;
  J[2] = mixed;
  J[3] = radial + T(2) * v * v * dradial + T(6) * p1 * v + T(2) * p2 * u;
}

// Equidistant fisheye: theta_d = theta (1 + k1 theta^2 + ...), theta the angle to the optical axis.
// Written with (x, y, z) and atan2, not u = x / z: points at 90 degrees and beyond project too.
template <class T>
PYLOC_HD PYLOC_COLD bool project_fisheye(const Camera<T>& cam, const Vec3<T>& X, Vec2<T>& xy, T* J) {
  const T r2 = X.x * X.x + X.y * X.y, rho2 = r2 + X.z * X.z;
  if (!(rho2 > T(0)) || !isfinite_(rho2)) return false;
  const T r = sqrt_(r2);
  T s, ds_over_r, ds_dz;  // s = theta_d / r; (ds/dr) / r; ds/dz
  if (r < T(1e-6) * sqrt_(rho2)) {
    if (!(X.z > T(0))) return false;
    s = T(1) / X.z;  // theta ~ r / z near the axis
    ds_over_r = T(2) * (cam.d[0] - T(1) / T(3)) / (X.z * X.z * X.z);
    ds_dz = -T(1) / (X.z * X.z);
  } else {
    const T theta = ::atan2(r, X.z), t2 = theta * theta;
    const T poly = T(1) + t2 * (cam.d[0] + t2 * (cam.d[1] + t2 * (cam.d[2] + t2 * cam.d[3])));
    const T dpoly = T(1) + t2 * (T(3) * cam.d[0] +
                                 t2 * (T(5) * cam.d[1] + t2 * (T(7) * cam.d[2] + t2 * T(9) * cam.d[3])));
    s = theta * poly / r;
    ds_over_r = (dpoly * X.z / rho2 - s) / r2;
    ds_dz = -dpoly / rho2;
  }
  xy = {cam.fx * s * X.x + cam.cx, cam.fy * s * X.y + cam.cy};
  if (J) {
    J[0] = cam.fx * (s + X.x * X.x * ds_over_r);
    J[1] = cam.fx * X.x * X.y * ds_over_r;
    J[2] = cam.fx * X.x * ds_dz;
    J[3] = cam.fy * X.x * X.y * ds_over_r;
    J[4] = cam.fy * (s + X.y * X.y * ds_over_r);
    J[5] = cam.fy * X.y * ds_dz;
  }
  return X.z > T(0) && isfinite_(xy.x) && isfinite_(xy.y);
}

// Projection of a point in the camera frame, with the 2 x 3 Jacobian d xy / d X_cam when J is given.
// False for points with depth <= 0 and for anything not finite.
template <class T>
PYLOC_HD inline bool project_jacobian(const Camera<T>& cam, const Vec3<T>& X, Vec2<T>& xy, T* J) {
  if (!(X.z > T(0))) return false;
  if (cam.kind == kFisheye) return project_fisheye(cam, X, xy, J);
  const T iz = T(1) / X.z, u = X.x * iz, v = X.y * iz;
  T ud = u, vd = v, D[4] = {T(1), T(0), T(0), T(1)};
  if (cam.kind == kOpenCV) distort_opencv(cam.d, u, v, ud, vd, D);
  xy = {cam.fx * ud + cam.cx, cam.fy * vd + cam.cy};
  if (J) {
    for (int r = 0; r < 2; ++r) {
      const T f = (r == 0 ? cam.fx : cam.fy) * iz;
      J[3 * r + 0] = f * D[2 * r];
      J[3 * r + 1] = f * D[2 * r + 1];
      J[3 * r + 2] = -f * (D[2 * r] * u + D[2 * r + 1] * v);
    }
  }
  return isfinite_(xy.x) && isfinite_(xy.y);
}

template <class T>
PYLOC_HD inline bool project(const Camera<T>& cam, const Vec3<T>& X, Vec2<T>& xy) {
  return project_jacobian(cam, X, xy, static_cast<T*>(nullptr));
}

// Undistorted normalized coordinates of a fisheye point: solves theta_d(theta) = r by Newton.
template <class T>
PYLOC_HD inline Vec3<T> unproject_fisheye(const Camera<T>& cam, T mx, T my) {
  const T r = sqrt_(mx * mx + my * my);
  if (!(r > T(1e-12))) return {mx, my, T(1)};
  T theta = min_(r, T(3.1));
  for (int i = 0; i < 20; ++i) {
    const T t2 = theta * theta;
    const T poly = T(1) + t2 * (cam.d[0] + t2 * (cam.d[1] + t2 * (cam.d[2] + t2 * cam.d[3])));
    const T dpoly = T(1) + t2 * (T(3) * cam.d[0] +
                                 t2 * (T(5) * cam.d[1] + t2 * (T(7) * cam.d[2] + t2 * T(9) * cam.d[3])));
    const T step = (theta * poly - r) / (abs_(dpoly) > T(1e-9) ? dpoly : T(1e-9));
    theta = min_(max_(theta - step, T(0)), T(3.14159));
    if (abs_(step) < T(1e-14)) break;
  }
  const T s = ::sin(theta) / r;
  return {s * mx, s * my, ::cos(theta)};
}

// Unit bearing of an image point: the inverse of `project` (Newton on the distortion, damped so that a
// point outside the model's invertible range ends at the nearest stable value instead of diverging).
template <class T>
PYLOC_HD inline Vec3<T> unproject(const Camera<T>& cam, Vec2<T> xy) {
  const T mx = (xy.x - cam.cx) / cam.fx, my = (xy.y - cam.cy) / cam.fy;
  Vec3<T> ray{mx, my, T(1)};
  if (cam.kind == kFisheye) {
    ray = unproject_fisheye(cam, mx, my);
  } else if (cam.kind == kOpenCV) {
    T u = mx, v = my;
    for (int i = 0; i < 30; ++i) {
      T ud, vd, J[4];
      distort_opencv(cam.d, u, v, ud, vd, J);
      const T ex = ud - mx, ey = vd - my, det = J[0] * J[3] - J[1] * J[2];
      if (!(det > T(1e-6))) break;
      const T du = (J[3] * ex - J[1] * ey) / det, dv = (J[0] * ey - J[2] * ex) / det;
      u -= du;
      v -= dv;
      if (du * du + dv * dv < T(1e-28)) break;
    }
    ray = {u, v, T(1)};
  }
  return ray * (T(1) / norm(ray));
}

PYLOC_NAMESPACE_END
