// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Bilinear interpolation in map coordinates: the centre of cell [row, col] is at the integer point (col,
// row).
#pragma once

#include "pyloc/vec.h"

PYLOC_NAMESPACE_BEGIN

// The four taps around a point, in the order (x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1).
// The weights use the fractional parts p - floor(p); the thesis prints them with the wrong sign (Eq. 4.3).
template <class T>
struct BilinearTaps {
  int x0, y0;
  T weight[4];
};

// False when no tap can lie in [0, w) x [0, h) or the point is not finite; the taps are then not set.
// Every accepted point is small enough for int arithmetic, whatever the caller's coordinates were.
template <class T>
PYLOC_HD PYLOC_INLINE bool bilinear_taps(Vec2<T> p, int w, int h, BilinearTaps<T>& taps) {
  if (!(p.x > T(-1) && p.x < T(w) && p.y > T(-1) && p.y < T(h))) return false;
  const T fx = floor_(p.x), fy = floor_(p.y);
  const T ax = p.x - fx, ay = p.y - fy;
  taps.x0 = int(fx);
  taps.y0 = int(fy);
  taps.weight[0] = (T(1) - ax) * (T(1) - ay);
  taps.weight[1] = ax * (T(1) - ay);
  taps.weight[2] = (T(1) - ax) * ay;
  taps.weight[3] = ax * ay;
  return true;
}

PYLOC_NAMESPACE_END
