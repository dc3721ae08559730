// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Refinement of a pose over loss maps by graduated non-convexity (thesis, section 4.4.2, Eq. 4.9).
//
// Minimises E_sigma(R, t) = - sum_n sum_q g_n(q) k_sigma(|q - p_n|), p_n the projection of point n, g the
// stored gain, k_sigma the isotropic Gaussian density, for a falling sequence of sigma. With
// w = g k_sigma / sigma^2 and r = q - p_n, the quadratic sum_q w |q - p|^2 / 2 lies above the energy and
// touches it at p_n, so the step that solves (sum_n sum_q w J^T J) d = sum_n J^T sum_q w r goes downhill
// (majorise and minimise) up to the curvature of the projection, which the damping takes care of.
// Here: the schedule, the sums over the entries of one map, the control of damping and sigma. The loops over
// maps belong to the caller (SIMD chunks on the CPU, a block on the GPU).
// Degenerate cases: a map with no entry near p_n contributes zeros; if all do, the system is zero and
// `damped_step` returns false.
#pragma once

#include "pyloc/linalg.h"

// Plain data that crosses from the bindings into kernels of any instruction set.
namespace pyloc {

enum GncReason : int {
  kGncConverged = 0,      // the advance rule fired at the last sigma
  kGncStalled = 1,        // 5 rejections in a row at the last sigma
  kGncMaxIterations = 2,  //
  kGncNoSupport = 3,      // no live cell near any projection
  kGncNotRun = 4,         // fewer than kMinUsable usable maps
};

struct GncOptions {
  double sigma_max, sigma_min;  // map cells
  std::int64_t max_iterations;
  double gain_ratio;    // advance at or below; published: 0.1
  double min_decrease;  // advance below; published: 1e-5
  int published;        // control flow of the published program, see gnc_after_trial
};

struct GncState {
  int level;  // index into the schedule
  int rejections;
  int reason;
  int done;
  std::int64_t iterations;
  double lambda;
};

// What to do after a trial step.
enum GncAction : int {
  kGncReject = 0,   // keep pose and normal equations, damp more
  kGncAccept = 1,   // take the trial's pose and its sums
  kGncAdvance = 2,  // the same, then evaluate again at the next sigma
  kGncSkip = 3,     // keep the pose, evaluate at the next sigma: nothing is left to gain at this one
};

}  // namespace pyloc

PYLOC_NAMESPACE_BEGIN

constexpr int kMaxSigmas = 64;
constexpr int kMaxRejections = 5;
constexpr double kMinLambda = 1e-8;
constexpr double kPublishedMaxLambda = 1e7;
// The published program drops points nearer than this, adds the shift to every depth, and derives the
// distortion (k1, k2, p1, p2) as if it were k1 alone.
constexpr double kPublishedNear = 1e-4;
constexpr double kPublishedDepthShift = 1e-8;
constexpr double kTwoPi = 6.283185307179586;

// sigma_max, the powers of two below it down to 1, then tenths, then sigma_min; returns the count. The
// published list holds 1 twice and only its own values (11264, 10240 ... 1024, 512, 256 ... 1, 1, 0.9 ...
// 0.2).
PYLOC_HD inline int gnc_schedule(double sigma_max, double sigma_min, bool published, double* sigmas) {
  const double tolerance = 1e-9;
  int count = 0;
  if (!published) sigmas[count++] = sigma_max;
  for (int k = 11; published && k >= 1; --k) {
    const double s = 1024.0 * k;
    if (s <= sigma_max + tolerance && s >= sigma_min - tolerance) sigmas[count++] = s;
  }
  double power = 1.0;
  while (published ? power < 512.0 : 2.0 * power < sigma_max * (1.0 - tolerance)) power *= 2.0;
  for (; power >= 1.0 && count < kMaxSigmas - 16; power *= 0.5) {
    const bool below = published ? power <= sigma_max + tolerance : power < sigma_max - tolerance;
    if (below && power >= sigma_min - tolerance) sigmas[count++] = power;
  }
  for (int tenth = published ? 10 : 9; tenth >= (published ? 2 : 1); --tenth) {
    const double s = 0.1 * tenth;
    const bool below = published ? s <= sigma_max + tolerance : s < sigma_max - tolerance;
    if (below && s >= sigma_min - tolerance) sigmas[count++] = s;
  }
  if (count == 0 || (!published && sigmas[count - 1] > sigma_min + tolerance)) sigmas[count++] = sigma_min;
  return count;
}

// 2^x for x <= 0; the SIMD form of csrc/cpu/gnc_entries.h is exact to 3e-6.
PYLOC_HD PYLOC_INLINE float decay(float x) {
#if defined(__CUDA_ARCH__)
  float y;  // one instruction, exact to 2 ulp; exp2f adds three for results that are denormal
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::exp2f(x);
#endif
}
PYLOC_HD PYLOC_INLINE double decay(double x) { return ::exp2(x); }

// Sums over the entries of a map with e = g exp(-|r|^2 / 2 sigma^2). The common factor 1 / (2 pi sigma^2)
// is left out: energy_n = -mass c, sum w = mass c / sigma^2, sum w r = (x, y) c / sigma^2.
template <class T>
struct MapSums {
  T mass, x, y;
};

// Second moments, for the curvature.
template <class T>
struct MapMoments {
  T xx, xy, yy;
};

// exponent = -log2(e) / (2 sigma^2)
template <class T>
PYLOC_HD PYLOC_INLINE T add_entry(MapSums<T>& sums, T rx, T ry, T gain, T exponent) {
  const T e = gain * decay(exponent * (rx * rx + ry * ry));
  sums.mass = sums.mass + e;
  sums.x = fma_(e, rx, sums.x);
  sums.y = fma_(e, ry, sums.y);
  return e;
}

template <class T>
PYLOC_HD PYLOC_INLINE void add_moments(MapMoments<T>& moments, T rx, T ry, T e) {
  moments.xx = fma_(e * rx, rx, moments.xx);
  moments.xy = fma_(e * rx, ry, moments.xy);
  moments.yy = fma_(e * ry, ry, moments.yy);
}

PYLOC_HD PYLOC_INLINE double gnc_exponent(double sigma) { return -0.7213475204444817 / (sigma * sigma); }
PYLOC_HD PYLOC_INLINE double gnc_density(double sigma) { return 1.0 / (kTwoPi * sigma * sigma); }

// Curvature of one map's energy, H = sum_q w (I - r r^T / sigma^2), nearest positive semi-definite: h holds
// H_xx, H_xy, H_yy.
PYLOC_HD inline void map_curvature(const MapSums<double>& s, const MapMoments<double>& m, double sigma,
                                   double h[3]) {
  const double s2 = sigma * sigma, c = gnc_density(sigma) / s2;
  h[0] = c * (s.mass - m.xx / s2);
  h[1] = -c * m.xy / s2;
  h[2] = c * (s.mass - m.yy / s2);
  project_psd2(h[0], h[1], h[2]);
}

// Adds J^T H J (lower triangle packed by rows, 21 values) for J (2 x 6) and symmetric H.
template <class T>
PYLOC_HD PYLOC_INLINE void add_normal(T* A, const T* J, T hxx, T hxy, T hyy) {
  int k = 0;
  for (int i = 0; i < 6; ++i) {
    const T u = hxx * J[i] + hxy * J[6 + i], v = hxy * J[i] + hyy * J[6 + i];
    for (int j = 0; j <= i; ++j, ++k) A[k] = A[k] + u * J[j] + v * J[6 + j];
  }
}

PYLOC_HD inline void unpack_symmetric(const double* packed, double* A) {
  for (int i = 0, k = 0; i < 6; ++i)
    for (int j = 0; j <= i; ++j, ++k) A[6 * i + j] = A[6 * j + i] = packed[k];
}

// Solves (A + damping) d = b. Damping is lambda times A's own diagonal, so that it does not depend on the
// unit of length (published: lambda times the identity). predicted: what the quadratic model says E falls by.
PYLOC_HD inline bool damped_step(const double* packed, const double b[6], double lambda, bool published,
                                 double d[6], double* predicted) {
  double A[36];
  unpack_symmetric(packed, A);
  double trace = 0.0;
  for (int i = 0; i < 6; ++i) trace += A[7 * i];
  if (!(trace > 0.0) || !isfinite_(trace)) return false;
  for (int i = 0; i < 6; ++i) A[7 * i] += published ? lambda : lambda * A[7 * i] + 1e-14 * trace;
  if (!cholesky_solve<6>(A, b, d)) return false;
  *predicted = 0.0;
  for (int i = 0; i < 6; ++i) {
    if (!isfinite_(d[i])) return false;
    *predicted += 0.5 * d[i] * b[i];
  }
  return true;
}

PYLOC_HD inline GncState gnc_begin() { return {0, 0, kGncConverged, 0, 0, kMinLambda}; }

PYLOC_HD inline bool gnc_next_level(GncState& state, int levels, int reason) {
  state.rejections = 0;
  if (state.level + 1 < levels) {
    ++state.level;
    return true;
  }
  state.reason = reason;
  state.done = 1;
  return false;
}

PYLOC_HD inline GncAction gnc_rejected(GncState& state, const GncOptions& options, int levels,
                                       double predicted) {
  if (options.published) {
    state.lambda *= 2.0;
    if (state.lambda >= kPublishedMaxLambda) {
      state.reason = kGncStalled;
      state.done = 1;
    }
    return kGncReject;
  }
  ++state.rejections;
  state.lambda = state.lambda < 1e-4 ? 1e-3 : state.lambda * 10.0;
  const bool converged = predicted < options.min_decrease;
  if (!converged && state.rejections < kMaxRejections) return kGncReject;
  state.lambda = kMinLambda;
  return gnc_next_level(state, levels, converged ? kGncConverged : kGncStalled) ? kGncSkip : kGncReject;
}

// The rule of section 4.4.2 after one trial: `before` and `after` are the energies at the same sigma,
// `decrease` and `increase` the sums over the maps that got better and worse. Advance when the step gained
// little: (before - after) / (decrease + increase) <= gain_ratio, or before - after < min_decrease.
// Published: damping grows until 1e7 before it stops, and sigma saturates at its last value.
PYLOC_HD inline GncAction gnc_after_trial(GncState& state, const GncOptions& options, int levels,
                                          double before, double after, double decrease, double increase,
                                          double predicted) {
  ++state.iterations;
  GncAction action;
  if (!(after < before)) {
    action = gnc_rejected(state, options, levels, predicted);
  } else {
    state.rejections = 0;
    const double total = before - after;
    const bool advance = total < options.min_decrease || total <= options.gain_ratio * (decrease + increase);
    action = kGncAccept;
    if (advance && options.published) {
      if (state.level + 1 < levels) {
        ++state.level;
        action = kGncAdvance;
      }
    } else if (advance) {
      if (gnc_next_level(state, levels, kGncConverged)) action = kGncAdvance;
    } else {
      const double factor = options.published ? 0.5 : 0.1;
      state.lambda = max_(state.lambda * factor, kMinLambda);
    }
  }
  if (!state.done && state.iterations >= options.max_iterations) {
    state.reason = kGncMaxIterations;
    state.done = 1;
  }
  return action;
}

PYLOC_NAMESPACE_END
