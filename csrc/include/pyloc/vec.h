// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Small vectors and 3 x 3 matrices (row-major), plain data for host, SIMD packs and device.
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

template <class T>
struct Vec2 {
  T x, y;
};

template <class T>
struct Vec3 {
  T x, y, z;
};

template <class T>
struct Mat3 {
  T m[9];
  PYLOC_HD PYLOC_INLINE T& operator()(int r, int c) { return m[3 * r + c]; }
  PYLOC_HD PYLOC_INLINE const T& operator()(int r, int c) const { return m[3 * r + c]; }
};

template <class T>
PYLOC_HD PYLOC_INLINE Vec2<T> operator+(Vec2<T> a, Vec2<T> b) {
  return {a.x + b.x, a.y + b.y};
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec2<T> operator-(Vec2<T> a, Vec2<T> b) {
  return {a.x - b.x, a.y - b.y};
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec2<T> operator*(Vec2<T> a, T s) {
  return {a.x * s, a.y * s};
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> operator+(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> operator-(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> operator*(const Vec3<T>& a, T s) {
  return {a.x * s, a.y * s, a.z * s};
}
template <class T>
PYLOC_HD PYLOC_INLINE T dot(const Vec3<T>& a, const Vec3<T>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> cross(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <class T>
PYLOC_HD PYLOC_INLINE T norm(const Vec3<T>& a) {
  return sqrt_(dot(a, a));
}

template <class T>
PYLOC_HD PYLOC_INLINE Vec3<T> operator*(const Mat3<T>& M, const Vec3<T>& v) {
  return {M.m[0] * v.x + M.m[1] * v.y + M.m[2] * v.z, M.m[3] * v.x + M.m[4] * v.y + M.m[5] * v.z,
          M.m[6] * v.x + M.m[7] * v.y + M.m[8] * v.z};
}

template <class T>
PYLOC_HD PYLOC_INLINE Mat3<T> operator*(const Mat3<T>& A, const Mat3<T>& B) {
  Mat3<T> C;
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) C(r, c) = A(r, 0) * B(0, c) + A(r, 1) * B(1, c) + A(r, 2) * B(2, c);
  return C;
}

template <class T>
PYLOC_HD PYLOC_INLINE Mat3<T> transpose(const Mat3<T>& A) {
  return {{A.m[0], A.m[3], A.m[6], A.m[1], A.m[4], A.m[7], A.m[2], A.m[5], A.m[8]}};
}

PYLOC_NAMESPACE_END
