// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Robust kernels psi of Eq. 4.1 and 4.12, as functions of the squared residual in units of the scale,
// s = |r|^2 / scale^2 >= 0. All are normalised to rho(s) ~ s near 0, so that rho'(0) = 1 and
// scale^2 rho(|r|^2 / scale^2) is a cost in squared units of the residual.
//   squared         s
//   huber           s up to 1, then 2 sqrt(s) - 1                  Huber 1964
//   cauchy          ln(1 + s)                                      Black and Anandan 1996 (Lorentzian)
//   geman_mcclure   s / (1 + s)                                    Geman and McClure 1985
//   tukey           (1 - (1 - s)^3) / 3 up to 1, then 1/3          Beaton and Tukey 1974
//   welsch          2 (1 - exp(-s / 2))                            Dennis and Welsch 1978; Eq. 4.11's
//   negative
//                                                                  Gaussian of sigma = scale, up to constants
//   barron          2 |a-2| / a ((s / |a-2| + 1)^(a/2) - 1)        Barron 2019, Eq. 8 (twice, for rho'(0) =
//   1)
// rho' lies in [0, 1]: it is the weight of iteratively reweighted least squares, and the optimal value of the
// outlier process that the kernel stands for (Black and Rangarajan 1996).
#pragma once

#include "pyloc/config.h"

// Plain data that crosses from the bindings into kernels of any instruction set, hence one type for all.
namespace pyloc {

// Twin of LOSSES in pyloc_core/robust.py.
enum RobustKind : int {
  kSquared = 0,
  kHuber = 1,
  kCauchy = 2,
  kGemanMcClure = 3,
  kTukey = 4,
  kWelsch = 5,
  kBarron = 6
};

template <class S>
struct RobustLoss {
  int kind;
  S scale2;      // squared scale, in squared units of the residual
  S inv_scale2;  // 1 / scale2
  S alpha;       // kBarron only; at most 2, and none of its removable singularities
};

}  // namespace pyloc

PYLOC_NAMESPACE_BEGIN

// Barron's kernel meets the simpler ones at alpha = 2, 0 and -infinity, where its formula divides by zero or
// loses its digits: those are replaced here. At alpha = 0 it is Cauchy's of scale sqrt(2) times as large.
template <class S>
PYLOC_HD inline RobustLoss<S> make_robust_loss(int kind, S scale, S alpha = S(0)) {
  S scale2 = scale * scale;
  if (kind == kBarron) {
    if (alpha > S(2) - S(1e-6)) {
      kind = kSquared;
    } else if (abs_(alpha) < S(1e-7)) {
      kind = kCauchy;
      scale2 = S(2) * scale2;
    } else if (!(alpha > S(-1e6))) {
      kind = kWelsch;
    }
  }
  return {kind, scale2, S(1) / scale2, alpha};
}

template <class T>
struct RobustTerm {
  T rho, weight, slope;  // rho(s), rho'(s), rho''(s)
};

// T is float, double or a pack of them.
template <int kind, class T, class S>
PYLOC_HD PYLOC_INLINE RobustTerm<T> robust_term(T s, const RobustLoss<S>& loss) {
  const T one = T(S(1)), zero = T(S(0));
  if constexpr (kind == kHuber) {
    const T root = sqrt_(max_(s, one)), inv = one / root;
    return {select(s > one, T(S(2)) * root - one, s), inv,
            select(s > one, T(S(-0.5)) * inv * inv * inv, zero)};
  } else if constexpr (kind == kCauchy) {
    const T w = one / (one + s);
    return {log_(one + s), w, -(w * w)};
  } else if constexpr (kind == kGemanMcClure) {
    const T v = one / (one + s), w = v * v;
    return {s * v, w, T(S(-2)) * w * v};
  } else if constexpr (kind == kTukey) {
    const T z = max_(one - s, zero);
    return {T(S(1) / S(3)) * (one - z * z * z), z * z, T(S(-2)) * z};
  } else if constexpr (kind == kWelsch) {
    const T w = exp_(T(S(-0.5)) * s);
    return {T(S(2)) * (one - w), w, T(S(-0.5)) * w};
  } else if constexpr (kind == kBarron) {
    const S b = S(2) - loss.alpha;
    const T z = s * T(S(1) / b) + one;
    const T w = exp_(T(S(0.5) * loss.alpha - S(1)) * log_(z));
    return {T(S(2) * b / loss.alpha) * (z * w - one), w, T(S(-0.5)) * w / z};
  } else {
    return {s, one, zero};
  }
}

// The same with the kernel chosen at run time: visit(std::integral_constant-like tag) keeps the choice out
// of loops.
template <int kind>
struct RobustTag {
  static constexpr int value = kind;
};
template <class S, class Visit>
PYLOC_HD inline void visit_robust(const RobustLoss<S>& loss, const Visit& visit) {
  switch (loss.kind) {
    case kHuber:
      return visit(RobustTag<kHuber>{});
    case kCauchy:
      return visit(RobustTag<kCauchy>{});
    case kGemanMcClure:
      return visit(RobustTag<kGemanMcClure>{});
    case kTukey:
      return visit(RobustTag<kTukey>{});
    case kWelsch:
      return visit(RobustTag<kWelsch>{});
    case kBarron:
      return visit(RobustTag<kBarron>{});
    default:
      return visit(RobustTag<kSquared>{});
  }
}

PYLOC_NAMESPACE_END
