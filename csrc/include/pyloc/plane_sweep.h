// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Where a cell of the reference lies in a source, for a plane at depth d: the arithmetic of one sample of a
// plane sweep (Collins, "A space-sweep approach to true multi-image matching", CVPR 1996), for scalars and
// for SIMD packs.
//
// In map coordinates of both cameras, q = M (x, y, 1) + m / d with M = K_s R K_r^-1 and m = K_s t; the sample
// lies at (q_x, q_y) / q_z, and its depth in the source camera is d q_z. The inverse depth makes the ray M
// (x, y, 1) common to all planes, and far planes exact.
//
// A sample is in front of the source where q_z > 0. Whatever is not finite compares false everywhere: such
// samples are in front of nothing.
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

template <class T>
struct SweepVector {
  T x, y, z;
};

// M (x, y, 1) for the rows [M | m] of `projection` (3, 4).
template <class T>
PYLOC_HD PYLOC_INLINE SweepVector<T> sweep_ray(const float* projection, T x, T y) {
  const float* p = projection;
  return {fma_(T(p[0]), x, fma_(T(p[1]), y, T(p[2]))), fma_(T(p[4]), x, fma_(T(p[5]), y, T(p[6]))),
          fma_(T(p[8]), x, fma_(T(p[9]), y, T(p[10])))};
}

// The sample of a plane: x, y in cells of the source map; z = q_z, the source depth divided by d.
template <class T>
PYLOC_HD PYLOC_INLINE SweepVector<T> sweep_sample(const float* projection, const SweepVector<T>& ray,
                                                  T inverse_depth) {
  const T qx = fma_(T(projection[3]), inverse_depth, ray.x);
  const T qy = fma_(T(projection[7]), inverse_depth, ray.y);
  const T qz = fma_(T(projection[11]), inverse_depth, ray.z);
  const T scale = T(1.0f) / qz;
  return {qx * scale, qy * scale, qz};
}

template <class T>
PYLOC_HD PYLOC_INLINE Mask<T> sweep_in_front(const SweepVector<T>& sample) {
  return sample.z > T(0.0f);
}

// In front, and at least one of its four taps may lie in the map: elsewhere the sampled feature is zero.
template <class T>
PYLOC_HD PYLOC_INLINE Mask<T> sweep_touches(const SweepVector<T>& s, float width, float height) {
  const Mask<T> x = mask_and(s.x > T(-1.0f), s.x < T(width)), y = mask_and(s.y > T(-1.0f), s.y < T(height));
  return mask_and(sweep_in_front(s), mask_and(x, y));
}

// In front, and within the map's outermost cells' edges.
template <class T>
PYLOC_HD PYLOC_INLINE Mask<T> sweep_sees(const SweepVector<T>& s, float width, float height) {
  const Mask<T> x = mask_and(s.x >= T(-0.5f), s.x <= T(width - 0.5f));
  const Mask<T> y = mask_and(s.y >= T(-0.5f), s.y <= T(height - 0.5f));
  return mask_and(sweep_in_front(s), mask_and(x, y));
}

PYLOC_NAMESPACE_END
