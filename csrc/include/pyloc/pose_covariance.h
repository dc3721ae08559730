// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Covariance of a refined pose.
//
// Curvature at the pose: Lambda = sum_n J_n^T H_n J_n with H_n of gnc.h. Its inverse alone is what the maps
// claim, and smoothing by sigma flattens their peaks: a peak of standard deviation s loses a factor
// (1 + sigma^2 / s^2)^2 of its curvature. How far the maps' votes really scatter is seen in the gradients:
// with g_n = J_n^T sum_q w r, leaving map n out moves the pose by about
//     -Lambda^-1 J_n^T (I - H_n J_n Lambda^-1 J_n^T)^-1 sum_q w r
// (the jackknife; MacKinnon and White 1985), and the sum of the squares of these moves, measured in Lambda
// and spread over the 6 degrees of freedom, is the dispersion c (McCullagh and Nelder 1989, section 9.2).
// Covariance = c Lambda^-1, c at least 0.05: votes that agree to the last digit (made-up data, one-hot maps)
// prove no exact pose. One scalar is estimated, so a dozen maps suffice where the full sandwich matrix
// needs hundreds. Rotation first, then translation, for the left update.
#pragma once

#include "pyloc/gnc.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

// Per map: J (12), H (3), sum w r (2).
constexpr int kMapTerms = 17;
constexpr double kMinDispersion = 0.05;

// Squared move of the pose, in Lambda, when one map is left out. C = Lambda^-1.
PYLOC_HD inline double leave_out_move(const double* term, const double* C) {
  const double* J = term;
  const double hxx = term[12], hxy = term[13], hyy = term[14], gx = term[15], gy = term[16];
  if (gx == 0.0 && gy == 0.0) return 0.0;
  double V[3] = {};  // J C J^T
  for (int i = 0; i < 6; ++i) {
    double cx = 0.0, cy = 0.0;
    for (int j = 0; j < 6; ++j) {
      cx += C[6 * i + j] * J[j];
      cy += C[6 * i + j] * J[6 + j];
    }
    V[0] += J[i] * cx;
    V[1] += J[i] * cy;
    V[2] += J[6 + i] * cy;
  }
  // I - H V, kept from singular: a map that alone fixes a direction.
  const double floor = 1e-3;
  const double a = 1.0 + floor - (hxx * V[0] + hxy * V[1]), b = -(hxx * V[1] + hxy * V[2]);
  const double c = -(hxy * V[0] + hyy * V[1]), d = 1.0 + floor - (hxy * V[1] + hyy * V[2]);
  const double det = a * d - b * c;
  if (!(det > floor * floor * 1e-3)) return 0.0;
  const double ux = (d * gx - b * gy) / det, uy = (a * gy - c * gx) / det;
  return ux * (V[0] * ux + V[1] * uy) + uy * (V[1] * ux + V[2] * uy);
}

// Whether every degree of freedom is fixed: its variance given the others fixed, 1 / Lambda_ii, against its
// variance with all free. Rounding alone gives about 1e14 for directions that nothing fixes.
PYLOC_HD inline bool well_determined(const double* Lambda, const double* C) {
  for (int i = 0; i < 6; ++i)
    if (!(Lambda[7 * i] * C[7 * i] < 1e10)) return false;
  return true;
}

// C = Lambda^-1 of the packed sum. False: the maps do not fix all six degrees of freedom.
PYLOC_HD PYLOC_COLD bool invert_curvature(const double* packed, double C[36]) {
  double Lambda[36];
  unpack_symmetric(packed, Lambda);
  return spd_inverse<6>(Lambda, C) && well_determined(Lambda, C);
}

// The optimisation runs in a frame whose origin is the start's camera centre: with coordinates far from
// zero (5e6 and a few metres of scene) rotation and translation are otherwise one direction in float64.
PYLOC_HD inline Vec3<double> frame_origin(const Pose<double>& start) {
  const Vec3<double> c = transpose(start.R) * start.t * -1.0;
  const bool fits = abs_(c.x) < 1e150 && abs_(c.y) < 1e150 && abs_(c.z) < 1e150;
  return fits ? c : Vec3<double>{0.0, 0.0, 0.0};
}

// From a frame with another origin o back to the world's: t = t' - R o, so the left update's translation
// gains shift x (minus rotation), shift = R o.
PYLOC_HD inline void move_covariance(const Vec3<double>& shift, double* C) {
  if (!isfinite_(C[0])) return;
  double T[36] = {}, TC[36] = {};
  for (int i = 0; i < 6; ++i) T[7 * i] = 1.0;
  T[6 * 3 + 1] = -shift.z, T[6 * 3 + 2] = shift.y;
  T[6 * 4 + 0] = shift.z, T[6 * 4 + 2] = -shift.x;
  T[6 * 5 + 0] = -shift.y, T[6 * 5 + 1] = shift.x;
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j < 6; ++j)
      for (int k = 0; k < 6; ++k) TC[6 * i + j] += T[6 * i + k] * C[6 * k + j];
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j <= i; ++j) {
      double sum = 0.0;
      for (int k = 0; k < 6; ++k) sum += TC[6 * i + k] * T[6 * j + k];
      C[6 * i + j] = C[6 * j + i] = sum;
    }
}

PYLOC_NAMESPACE_END
