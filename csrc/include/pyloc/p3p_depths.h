// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The depths of a P3P problem from angles and distances: d_i^2 + d_j^2 - 2 cos_ij d_i d_j = a_ij for the
// three pairs. See pyloc/p3p.h for the contract. In the ratios x = d1 / d3 - 1, y = d2 / d3 - 1 the form of a
// pair is, with h = 1 - cos and free of cancellation,
//   E12 = (x - y)^2 + 2 h12 (1 + x)(1 + y),   E13 = x^2 + 2 h13 (1 + x),   E23 = y^2 + 2 h23 (1 + y).
#pragma once

#include <cstring>

#include "pyloc/vec.h"

PYLOC_NAMESPACE_BEGIN

// Tolerances are relative to quantities of the same kind. kTiny keeps divisors from zero.
template <class T>
struct P3PLimits;
template <>
struct P3PLimits<double> {
  static constexpr int kHalleySteps = 2;
  static constexpr double kTiny = 1e-18, kDiscriminant = 1e-9, kResidual = 1e-8, kSine2 = 1e-18,
                          kSingular = 1e-15, kFar = 1e14, kHuge = 1e300;
};
template <>
struct P3PLimits<float> {
  static constexpr int kHalleySteps = 1;
  static constexpr float kTiny = 1e-8f, kDiscriminant = 1e-5f, kResidual = 1e-4f, kSine2 = 1e-9f,
                         kSingular = 3e-7f, kFar = 1e6f, kHuge = 1e37f;
};

// To a unit or two in the last place, as the SIMD forms are: on a GPU one instruction in place of ten.
PYLOC_HD PYLOC_INLINE float reciprocal_(float a) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rcp.approx.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
#else
  return 1.0f / a;
#endif
}
PYLOC_HD PYLOC_INLINE float inverse_sqrt_(float a) {
#if defined(__CUDA_ARCH__)
  return ::rsqrtf(a);
#else
  return 1.0f / sqrt_(a);
#endif
}
PYLOC_HD PYLOC_INLINE double reciprocal_(double a) { return 1.0 / a; }
PYLOC_HD PYLOC_INLINE float coarse_reciprocal_(float a) { return reciprocal_(a); }  // to 1e-4
PYLOC_HD PYLOC_INLINE double coarse_reciprocal_(double a) { return 1.0 / a; }
PYLOC_HD PYLOC_INLINE double inverse_sqrt_(double a) { return 1.0 / sqrt_(a); }

// Cube root of a > 0 to within 4 % for a in [0.2, 200]: a third of the bits, exponent and mantissa at once.
// The sum of shifts is 85/256, close to 1/3; the constant makes up for the bias and centres the error.
PYLOC_HD PYLOC_INLINE float cbrt_estimate_(float a) {
  std::uint32_t i;
  memcpy(&i, &a, 4);
  i = (i >> 2) + (i >> 4) + (i >> 6) + (i >> 8) + 711366804u;
  memcpy(&a, &i, 4);
  return a;
}
PYLOC_HD PYLOC_INLINE double cbrt_estimate_(double a) {
  std::uint64_t i;
  memcpy(&i, &a, 8);
  i = (i >> 2) + (i >> 4) + (i >> 6) + (i >> 8) + 3077316521519189328ull;
  memcpy(&a, &i, 8);
  return a;
}

// What belongs to the pair of points ij: 1 - cos of the angle between the bearings, squared distance.
template <class T>
struct P3PPairs {
  T h12, h13, h23, a12, a13, a23;
};

template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> select(Mask<T> mask, const Vec3<T>& a, const Vec3<T>& b) {
  return {select(mask, a.x, b.x), select(mask, a.y, b.y), select(mask, a.z, b.z)};
}
template <class T>
PYLOC_HD PYLOC_INLINE void swap_if(Mask<T> mask, T& a, T& b) {
  const T old_a = a;
  a = select(mask, b, a);
  b = select(mask, old_a, b);
}
// The root of t^3 + p t + q farthest from the other two (the only real one, if so). Its sign is that of
// -q; with t = sqrt|p| x it solves x^3 +- x = k, x > 0 (and x >= 1 for the lower sign).
template <class T>
PYLOC_HD PYLOC_INLINE T p3p_isolated_root(T p, T q) {
  const T size = abs_(p), inverse_root = inverse_sqrt_(size);
  const T k = abs_(q) * (inverse_root * inverse_root * inverse_root);
  const Mask<T> falling = p < T(0);
  const T sign = select(falling, T(-1), T(1));
  const T cube_root = cbrt_estimate_(select(falling, k + T(1), k));
  T x = select(falling, cube_root, min_(cube_root, k));
  for (int step = 0; step < P3PLimits<T>::kHalleySteps; ++step) {
    const T x2 = x * x, f = x * (x2 + sign) - k, slope = T(3) * x2 + sign;
    x = x - f * slope * coarse_reciprocal_(slope * slope - T(3) * (x * f));
  }
  const T root = size * inverse_root * x;
  return select(q > T(0), -root, root);
}

// The weights w of a degenerate member sum w_ij E_ij of the pencil (sum w_ij a_ij = 0), where E_ij(d) = |d_i
// f_i - d_j f_j|^2, are a root of det = sum_ij w_ij^2 S_ij (sum of the other two w) + 2 G w12 w13 w23 with S
// = sin^2 = h (2 - h) and G = 1 - cos12 cos13 cos23: a cubic z^3 + B z^2 + C z + D in the ratio z of two of
// them.
template <class T>
struct P3PCubic {
  T B, C, D, a, b;  // the third weight is -(a, b) . the other two
  Mask<T> swap_a, swap_b, swap_ends;
};
template <class T>
PYLOC_HD PYLOC_INLINE P3PCubic<T> p3p_cubic(const P3PPairs<T>& g) {
  const T tiny = T(P3PLimits<T>::kTiny);
  T a = g.a12, b = g.a13, c = g.a23;
  T s12 = g.h12 * (T(2) - g.h12), s13 = g.h13 * (T(2) - g.h13), s23 = g.h23 * (T(2) - g.h23);
  const T G2 = T(2) * (g.h12 + (T(1) - g.h12) * (g.h13 + (T(1) - g.h13) * g.h23));
  // w23 follows from the other two and must not divide by a short side: the longest takes its place.
  const Mask<T> swap_a = a > c;
  swap_if(swap_a, a, c);
  swap_if(swap_a, s12, s23);
  const Mask<T> swap_b = b > c;
  swap_if(swap_b, b, c);
  swap_if(swap_b, s13, s23);
  const T inverse_c = reciprocal_(c);
  a = a * inverse_c;
  b = b * inverse_c;
  // k3 w13^3 + k2 w13^2 w12 + k1 w13 w12^2 + k0 w12^3, the larger end first.
  T k3 = b * (b * s23 - s13), k0 = a * (a * s23 - s12);
  T k2 = s13 * (T(1) - a) - b * (G2 - (b + T(2) * a) * s23);
  T k1 = s12 * (T(1) - b) - a * (G2 - (a + T(2) * b) * s23);
  const Mask<T> swap_ends = abs_(k0) > abs_(k3);
  swap_if(swap_ends, k3, k0);
  swap_if(swap_ends, k2, k1);
  // A vanishing leading coefficient puts a root at infinity; a tiny one keeps it very far instead.
  const T floor = tiny * max_(max_(abs_(k2), abs_(k1)), T(1e-30));
  k3 = select(abs_(k3) > floor, k3, floor);
  const T inverse_k3 = reciprocal_(k3);
  return {k2 * inverse_k3, k1 * inverse_k3, k0 * inverse_k3, a, b, swap_a, swap_b, swap_ends};
}

// The cubic's root farthest from the other two, polished in the cubic itself.
template <class T>
PYLOC_HD PYLOC_INLINE T p3p_cubic_root(const T& B, const T& C, const T& D) {
  const T B3 = B * T(1.0 / 3);
  T p = C - B * B3;
  const T q = B3 * (T(2) * B3 * B3 - C) + D;
  const T p_floor = T(P3PLimits<T>::kTiny) * max_(B * B3, T(1e-20));
  p = select(abs_(p) > p_floor, p, p_floor);
  T root = p3p_isolated_root(p, q) - B3;
  const T slope = (T(3) * root + T(2) * B) * root + C;
  const T step = (((root + B) * root + C) * root + D) * reciprocal_(slope);
  return select(abs_(step) < T(0.1) * abs_(root), root - step, root);
}

template <class T>
PYLOC_HD PYLOC_INLINE void p3p_weights(const P3PCubic<T>& cubic, const T& root, T& w12, T& w13, T& w23) {
  w12 = select(cubic.swap_ends, root, T(1));
  w13 = select(cubic.swap_ends, T(1), root);
  w23 = -(cubic.a * w12 + cubic.b * w13);
  swap_if(cubic.swap_b, w13, w23);
  swap_if(cubic.swap_a, w12, w23);
}

// Brings the labels into the order in which elimination is safe: point 1 has the largest diagonal entry of
// sum w_ij E_ij, and w12 is not smaller than w13.
template <class T>
struct P3PLabels {
  Mask<T> first_is_2, first_is_3, swap_23;
};
template <class T>
PYLOC_HD PYLOC_INLINE P3PLabels<T> p3p_relabel(P3PPairs<T>& g, T& w12, T& w13, T& w23) {
  P3PLabels<T> labels;
  const T d1 = abs_(w12 + w13), d2 = abs_(w12 + w23), d3 = abs_(w13 + w23);
  labels.first_is_3 = mask_and(d3 > d1, d3 > d2);
  labels.first_is_2 = mask_and(d2 > d1, mask_not(labels.first_is_3));
  const auto rotate = [&](T& v12, T& v13, T& v23) {
    const T o12 = v12, o13 = v13, o23 = v23;
    v12 = select(labels.first_is_2, o23, select(labels.first_is_3, o13, o12));
    v13 = select(labels.first_is_2, o12, select(labels.first_is_3, o23, o13));
    v23 = select(labels.first_is_2, o13, select(labels.first_is_3, o12, o23));
  };
  rotate(w12, w13, w23);
  rotate(g.h12, g.h13, g.h23);
  rotate(g.a12, g.a13, g.a23);
  labels.swap_23 = abs_(w13) > abs_(w12);
  swap_if(labels.swap_23, w12, w13);
  swap_if(labels.swap_23, g.h12, g.h13);
  swap_if(labels.swap_23, g.a12, g.a13);
  return labels;
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> p3p_restore(const P3PLabels<T>& labels, Vec3<T> d) {
  swap_if(labels.swap_23, d.y, d.z);
  return {select(labels.first_is_2, d.z, select(labels.first_is_3, d.y, d.x)),
          select(labels.first_is_2, d.x, select(labels.first_is_3, d.z, d.y)),
          select(labels.first_is_2, d.y, select(labels.first_is_3, d.x, d.z))};
}

// The line pair of the degenerate conic as x = slope y + offset, in x = d1 / d3 - 1 and y = d2 / d3 - 1.
template <class T>
PYLOC_HD PYLOC_INLINE Mask<T> p3p_lines(const P3PPairs<T>& g, T w12, T w13, T w23, T slope[2], T offset[2]) {
  using Limits = P3PLimits<T>;
  const T m00 = w12 + w13, m01 = w12 * (g.h12 - T(1)), m02 = w12 * g.h12 + w13 * g.h13;
  const T m11 = w12 + w23, m12 = w12 * g.h12 + w23 * g.h23, m22 = T(2) * (m02 + w23 * g.h23);
  // m00 x = -(m01 y + m02) +- (r y + s); r^2, r s, s^2 up to the other's rounding. The larger gives both.
  const T rr = m01 * m01 - m00 * m11, rs = m01 * m02 - m00 * m12, ss = m02 * m02 - m00 * m22;
  const T y2 = g.h12 + g.h13 + g.h23;  // the size of y^2
  const Mask<T> by_slope = rr * y2 > ss;
  const T unit = m00 * m00 * select(by_slope, T(1), y2), larger = select(by_slope, rr, ss);
  const Mask<T> real = larger > -T(Limits::kDiscriminant) * unit;
  const T squared = max_(larger, T(Limits::kTiny) * unit), inverse = inverse_sqrt_(squared);
  const T r = select(by_slope, squared, rs) * inverse, s = select(by_slope, rs, squared) * inverse;
  const T inverse_m00 = reciprocal_(m00);
  slope[0] = (r - m01) * inverse_m00;
  slope[1] = -(r + m01) * inverse_m00;
  offset[0] = (s - m02) * inverse_m00;
  offset[1] = -(s + m02) * inverse_m00;
  return real;
}

// Where a line meets a23 E13 = a13 E23: A y^2 + 2 B y + C = 0.
template <class T>
PYLOC_HD PYLOC_INLINE Mask<T> p3p_intersect(const P3PPairs<T>& g, T slope, T offset, T y[2]) {
  const T slope2 = g.a23 * slope * slope, B_line = g.a23 * slope * (offset + g.h13), B_pair = g.a13 * g.h23;
  const T A = slope2 - g.a13, B = B_line - B_pair;
  const T C = g.a23 * (offset * (offset + T(2) * g.h13) + T(2) * g.h13) - T(2) * g.a13 * g.h23;
  const T discriminant = B * B - A * C;
  // Rounding is that of the terms, not of A and B, which may cancel.
  const T size = B_line * B_line + B_pair * B_pair + (slope2 + g.a13) * abs_(C);
  const Mask<T> real = discriminant > -T(P3PLimits<T>::kDiscriminant) * size;
  const T root = sqrt_(max_(discriminant, T(0)));
  const T far = -B - select(B < T(0), -root, root), near = -B + select(B < T(0), -root, root);
  // near / A cancels where A is small; C / far divides noise by noise where B and C vanish.
  const Mask<T> small_A = A * A * (g.h12 + g.h13 + g.h23) < T(0.01) * B * B;
  y[0] = far * reciprocal_(A);
  y[1] = select(small_A, C, near) * reciprocal_(select(small_A, far, A));
  return real;
}

// a_ij - E_ij(d).
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> p3p_residual(const P3PPairs<T>& g, const Vec3<T>& d) {
  const T e12 = d.x - d.y, e13 = d.x - d.z, e23 = d.y - d.z;
  return {g.a12 - e12 * e12 - (g.h12 + g.h12) * (d.x * d.y),
          g.a13 - e13 * e13 - (g.h13 + g.h13) * (d.x * d.z),
          g.a23 - e23 * e23 - (g.h23 + g.h23) * (d.y * d.z)};
}

// The Newton step for residual r, by J = dE / dd at d. Where solutions coincide J is singular; the inverse of
// its determinant is regularised by `singular`, so that the step stays small there.
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> p3p_newton_step(const P3PPairs<T>& g, const Vec3<T>& d, const Vec3<T>& r,
                                              T singular) {
  const T e12 = d.x - d.y, e13 = d.x - d.z, e23 = d.y - d.z;
  // Half of J: rows (p12 q12 0), (p13 0 q13), (0 p23 q23).
  const T p12 = g.h12 * d.y + e12, q12 = g.h12 * d.x - e12;
  const T p13 = g.h13 * d.z + e13, q13 = g.h13 * d.x - e13;
  const T p23 = g.h23 * d.z + e23, q23 = g.h23 * d.y - e23;
  const T q13p23 = q13 * p23, p13q23 = p13 * q23, left = p12 * q13p23, right = q12 * p13q23;
  const T determinant = left + right;
  const T inverse = T(0.5) * determinant * coarse_reciprocal_(determinant * determinant + singular);
  const T u = q13 * r.z - q23 * r.y, v = p12 * r.y - p13 * r.x;
  return {(q13p23 * r.x - q12 * u) * inverse, (p13q23 * r.x + p12 * u) * inverse,
          (p23 * v + q12 * p13 * r.z) * inverse};
}

template <class T>
PYLOC_HD PYLOC_INLINE void p3p_order(Vec3<T>& a, Vec3<T>& b) {
  const Mask<T> swap = b.x < a.x;
  const Vec3<T> old_a = a;
  a = select(swap, b, a);
  b = select(swap, old_a, b);
}

// Depths of the four slots, given the cubic's root, ordered; kFar in the first component of an empty slot.
template <class T>
PYLOC_HD PYLOC_INLINE void p3p_depths(P3PPairs<T> g, const P3PCubic<T>& cubic, const T& root, Mask<T> usable,
                                      Vec3<T> depths[4]) {
  using Limits = P3PLimits<T>;
  T w12, w13, w23, slope[2], offset[2];
  p3p_weights(cubic, root, w12, w13, w23);
  const P3PLabels<T> labels = p3p_relabel(g, w12, w13, w23);
  const Mask<T> lines = mask_and(usable, p3p_lines(g, w12, w13, w23, slope, offset));
  const T inverse_squares = reciprocal_(g.a13 + g.a23);
  const T singular = T(Limits::kSingular) * (g.a12 * g.a13 * g.a23);  // |entries of J / 2| <= sqrt(a_ij)
  for (int line = 0; line < 2; ++line) {
    T y[2];
    const Mask<T> real = mask_and(lines, p3p_intersect(g, slope[line], offset[line], y));
    for (int i = 0; i < 2; ++i) {
      const T x = slope[line] * y[i] + offset[line];
      const T norm13 = x * x + T(2) * g.h13 * (T(1) + x), norm23 = y[i] * y[i] + T(2) * g.h23 * (T(1) + y[i]);
      const T d3 = inverse_sqrt_((norm13 + norm23) * inverse_squares);
      Vec3<T> d = {d3 * (T(1) + x), d3 * (T(1) + y[i]), d3};
      d = d + p3p_newton_step(g, d, p3p_residual(g, d), singular);
      const Vec3<T> r = p3p_residual(g, d);
      const T error = max_(max_(abs_(r.x), abs_(r.y)), abs_(r.z));
      const T limit = T(Limits::kFar);
      const Mask<T> positive = mask_and(mask_and(d.x > T(0), d.y > T(0)), d.z > T(0));
      const Mask<T> sound = mask_and(mask_and(real, positive), error < T(Limits::kResidual) * (d.x + T(1)));
      d = p3p_restore(labels, d);
      d.x = select(mask_and(sound, d.x < limit), d.x, limit);
      depths[2 * line + i] = d;
    }
  }
  p3p_order(depths[0], depths[1]);
  p3p_order(depths[2], depths[3]);
  p3p_order(depths[0], depths[2]);
  p3p_order(depths[1], depths[3]);
  p3p_order(depths[1], depths[2]);
}

PYLOC_NAMESPACE_END
