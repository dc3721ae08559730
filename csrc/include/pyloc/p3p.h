// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// P3P: the poses of a calibrated camera that sees three known points, up to four.
//
// Solves   d_i f_i = R X_i + t,  d_i > 0,  i = 1, 2, 3, for unit bearings f and points X.
// Method   The three equations |d_i f_i - d_j f_j|^2 = |X_i - X_j|^2 = a_ij are quadratic forms in the
//          depths. Those combinations of them that vanish at every solution form a pencil of conics; one
//          of its degenerate members (a root of a cubic) is a pair of lines, and each line meets another
//          conic of the pencil in two points: Persson and Nordberg, "Lambda Twist" (ECCV 2018); Ding et
//          al., "Revisiting the P3P Problem" (CVPR 2023). Own here: everything is written in h_ij =
//          1 - cos(angle ij) and in depth ratios minus one, so that a narrow field of view loses nothing;
//          the root farthest from the other two is taken, which is well-conditioned when solutions
//          coincide; the labels are permuted so that no pivot is small; Newton steps on the depths end it.
// Order    By rising depth of the first point, valid solutions first.
// Assumes  nothing of the scalar type but +, -, *, / and the functions of config.h: float, double, a SIMD
//          pack (one problem per lane) or a CUDA thread's scalar. No branch depends on values.
// Refuses  (no valid solution) collinear or coinciding points, bearings of zero length, NaN and inf.
//          A double solution is returned twice; of a pair that rounding has made barely complex the real
//          part counts as a double solution. The camera may lie in the points' plane.
#pragma once

#include "pyloc/p3p_depths.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

// A problem in units of `scale`: unit bearings, an orthonormal frame u of the triangle, its first corner.
template <class T>
struct P3PProblem {
  Vec3<T> f1, f2, f3, u1, u2, u3, x1;
  P3PPairs<T> pairs;
  T scale;
  Mask<T> along13, valid;  // the side 13 is longer than 12 and gives u1; the points are a triangle
};

// v s; vec.h's operator is ambiguous with that of a pack and anything.
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> scaled(const Vec3<T>& v, const T& s) {
  return {v.x * s, v.y * s, v.z * s};
}
template <class T>
PYLOC_HD PYLOC_INLINE T max_abs(const Vec3<T>& a, const Vec3<T>& b) {
  return max_(max_(max_(abs_(a.x), abs_(a.y)), max_(abs_(a.z), abs_(b.x))), max_(abs_(b.y), abs_(b.z)));
}

// Orthonormal to rounding however thin the triangle: e1 along the side, e3 towards the normal. Where one of
// them has vanished a constant direction, too small to count otherwise, takes its place.
template <class T>
PYLOC_HD PYLOC_INLINE void p3p_frame(const Vec3<T>& side, const Vec3<T>& normal, Vec3<T>& e1, Vec3<T>& e2,
                                     Vec3<T>& e3) {
  const T tiny = T(P3PLimits<T>::kTiny);
  e1 = {side.x + tiny, side.y, side.z};
  e1 = scaled(e1, inverse_sqrt_(dot(e1, e1)));
  e2 = cross(Vec3<T>{normal.x, normal.y + tiny, normal.z + tiny}, e1);
  e2 = scaled(e2, inverse_sqrt_(dot(e2, e2)));
  e3 = cross(e1, e2);
}

template <class T>
PYLOC_HD PYLOC_INLINE P3PProblem<T> p3p_setup(const Vec3<T> bearings[3], const Vec3<T> points[3]) {
  using Limits = P3PLimits<T>;
  P3PProblem<T> s;
  s.f1 = scaled(bearings[0], inverse_sqrt_(dot(bearings[0], bearings[0])));
  s.f2 = scaled(bearings[1], inverse_sqrt_(dot(bearings[1], bearings[1])));
  s.f3 = scaled(bearings[2], inverse_sqrt_(dot(bearings[2], bearings[2])));
  const Vec3<T> f12 = s.f1 - s.f2, f13 = s.f1 - s.f3, f23 = s.f2 - s.f3;
  s.pairs.h12 = T(0.5) * dot(f12, f12);
  s.pairs.h13 = T(0.5) * dot(f13, f13);
  s.pairs.h23 = T(0.5) * dot(f23, f23);

  // Differences first: exact for a distant origin. Then a scale without squares, which could overflow.
  Vec3<T> x12 = points[1] - points[0], x13 = points[2] - points[0];
  s.x1 = points[0];
  s.scale = max_abs(x12, x13);
  const T inverse_scale = T(1) / s.scale;
  x12 = scaled(x12, inverse_scale);
  x13 = scaled(x13, inverse_scale);
  const Vec3<T> x23 = x13 - x12, normal = cross(x12, x13);
  s.pairs.a12 = dot(x12, x12);
  s.pairs.a13 = dot(x13, x13);
  s.pairs.a23 = dot(x23, x23);
  s.along13 = s.pairs.a13 > s.pairs.a12;
  const T side2 = select(s.along13, s.pairs.a13, s.pairs.a12);
  p3p_frame(select(s.along13, x13, x12), normal, s.u1, s.u2, s.u3);
  const Mask<T> triangle = dot(normal, normal) > T(Limits::kSine2) * side2 * side2;
  const Mask<T> in_range = max_(max_abs(s.x1, s.x1), s.scale * T(Limits::kFar)) < T(Limits::kHuge);
  s.valid = mask_and(triangle, in_range);
  return s;
}

// The pose that takes the triangle's frame to that of the points at the given depths.
template <class T>
PYLOC_HD PYLOC_INLINE Mask<T> p3p_pose(const P3PProblem<T>& s, const Vec3<T>& depth,
                                       Pose<T>& cam_from_world) {
  using Limits = P3PLimits<T>;
  const Vec3<T> y1 = scaled(s.f1, depth.x);
  const Vec3<T> y12 = scaled(s.f2, depth.y) - y1, y13 = scaled(s.f3, depth.z) - y1,
                side = select(s.along13, y13, y12);
  Vec3<T> e1, e2, e3;
  p3p_frame(side, cross(y12, y13), e1, e2, e3);
  const Mask<T> valid = depth.x < T(Limits::kFar);
  const auto row = [&](T a, T b, T c, T y1_axis, T* r) {
    const Vec3<T> v = scaled(s.u1, a) + scaled(s.u2, b) + scaled(s.u3, c);
    const T t = s.scale * y1_axis - dot(v, s.x1);
    r[0] = select(valid, v.x, T(0));
    r[1] = select(valid, v.y, T(0));
    r[2] = select(valid, v.z, T(0));
    return select(valid, t, T(0));
  };
  cam_from_world.t.x = row(e1.x, e2.x, e3.x, y1.x, cam_from_world.R.m);
  cam_from_world.t.y = row(e1.y, e2.y, e3.y, y1.y, cam_from_world.R.m + 3);
  cam_from_world.t.z = row(e1.z, e2.z, e3.z, y1.z, cam_from_world.R.m + 6);
  return valid;
}

// One problem. Returns how many of `cam_from_world` are solutions; the others are zero.
template <class T>
PYLOC_HD inline int p3p(const Vec3<T> bearings[3], const Vec3<T> points[3], Pose<T> cam_from_world[4]) {
  const P3PProblem<T> problem = p3p_setup(bearings, points);
  Vec3<T> depths[4];
  const P3PCubic<T> cubic = p3p_cubic(problem.pairs);
  p3p_depths(problem.pairs, cubic, p3p_cubic_root(cubic.B, cubic.C, cubic.D), problem.valid, depths);
  int count = 0;
  for (int i = 0; i < 4; ++i) count += p3p_pose(problem, depths[i], cam_from_world[i]);
  return count;
}

PYLOC_NAMESPACE_END
