// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Levenberg-Marquardt over a pose (Marquardt 1963, with the damping rule of Nielsen 1999): minimises
// F(pose) = sum_n rho_n, given the cost and the normal equations A d = b of a quadratic model
// F(pose + d) ~ F - 2 b^T d + d^T A d at any pose. `d` is the left update of se3.h, rotation first.
//   Problem: bool linearize(const Pose<T>& cam_from_world, bool near, NormalEquations<T>& out);
//     `near`: the step here is short, so that a model with the kernel's own curvature (Newton) pays; far
//     from the minimum reweighted least squares makes the better steps. False aborts (bad data). Every lane
//     of a cooperative group may call levenberg with a `linearize` that leaves the same sums in all of them.
// A trial pose is linearised at once, not only evaluated: from a usable start nearly every step is accepted,
// and one pass over the points is cheaper than two.
#pragma once

#include "pyloc/linalg.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

template <class T>
struct NormalEquations {
  T A[21];  // lower triangle by rows: A00, A10, A11, A20, ...
  T b[6];
  T cost;
};

enum class LevenbergStop : int {
  kConverged = 0,  // the model promises no further decrease worth having
  kMaxIterations = 1,
  kNoDecrease = 2,  // no step however short lowers the cost: the minimum, to rounding
  kNotFinite = 3,   // the cost at the start is not finite
  kAborted = 4
};

template <class T>
struct LevenbergOptions {
  int max_iterations;
  T tolerance;      // relative decrease of the cost that is not worth a step
  T cost_floor;     // absolute decrease that is not
  T near_decrease;  // a step that promises less than this is short
};

struct LevenbergResult {
  LevenbergStop stop;
  int iterations;  // steps tried
};

// d solves (A + damping diag(A)) d = b. Returns the decrease that the undamped model promises, or a negative
// value when the damped matrix is not positive definite.
template <class T>
PYLOC_HD inline T levenberg_step(const NormalEquations<T>& eq, T damping, T d[6]) {
  T full[36];
  T largest = T(0);
  for (int r = 0, i = 0; r < 6; ++r)
    for (int c = 0; c <= r; ++c, ++i) full[6 * r + c] = eq.A[i];
  for (int r = 0; r < 6; ++r) largest = max_(largest, full[7 * r]);
  // A direction without any curvature (all its Jacobians zero) still needs a pivot.
  for (int r = 0; r < 6; ++r) full[7 * r] += damping * max_(full[7 * r], T(1e-12) * largest);
  if (!cholesky_solve<6>(full, eq.b, d)) return T(-1);
  T promised = T(0);
  for (int r = 0, i = 0; r < 6; ++r) {
    promised += T(2) * d[r] * eq.b[r];
    for (int c = 0; c <= r; ++c, ++i) promised -= (r == c ? T(1) : T(2)) * eq.A[i] * d[r] * d[c];
  }
  return promised;
}

// Refines the pose in place; `eq` holds the normal equations at the returned pose.
template <class T, class Problem>
PYLOC_HD inline LevenbergResult levenberg(Problem& problem, const LevenbergOptions<T>& options,
                                          Pose<T>& cam_from_world, NormalEquations<T>& eq) {
  if (!problem.linearize(cam_from_world, false, eq)) return {LevenbergStop::kAborted, 0};
  if (!isfinite_(eq.cost)) return {LevenbergStop::kNotFinite, 0};
  T damping = T(1e-4), growth = T(2);
  for (int iteration = 1; iteration <= options.max_iterations; ++iteration) {
    T d[6];
    const T promised = levenberg_step(eq, damping, d);
    const bool solved = promised >= T(0);
    if (solved && promised <= max_(options.tolerance * eq.cost, options.cost_floor))
      return {LevenbergStop::kConverged, iteration - 1};
    bool accepted = false;
    if (solved) {
      const Pose<T> trial = left_update(cam_from_world, d);
      NormalEquations<T> next;
      if (!problem.linearize(trial, promised < options.near_decrease, next))
        return {LevenbergStop::kAborted, iteration};
      const T decrease = eq.cost - next.cost;
      accepted = decrease > T(0);  // false for NaN too
      if (accepted) {
        const T ratio = T(2) * decrease / promised - T(1);
        damping = max_(damping * max_(T(1) / T(3), T(1) - ratio * ratio * ratio), T(1e-12));
        growth = T(2);
        cam_from_world = trial;
        eq = next;
      }
    }
    if (!accepted) {
      damping *= growth;
      growth *= T(2);
      if (!(damping < T(1e12))) return {LevenbergStop::kNoDecrease, iteration};
    }
  }
  return {LevenbergStop::kMaxIterations, options.max_iterations};
}

// Inverse of the packed 6 x 6 matrix. False when a pivot of the matrix scaled to a unit diagonal is below
// 1e-11: then some direction of the pose is not observed (collinear points and the like).
template <class T>
PYLOC_HD inline bool observed_inverse(const T A[21], T inverse[36]) {
  T full[36];
  for (int r = 0, i = 0; r < 6; ++r)
    for (int c = 0; c <= r; ++c, ++i) full[6 * r + c] = full[6 * c + r] = A[i];
  if (!spd_inverse<6>(full, inverse)) return false;
  for (int r = 0; r < 6; ++r)
    if (!(full[7 * r] * inverse[7 * r] < T(1e11))) return false;
  return true;
}

PYLOC_NAMESPACE_END
