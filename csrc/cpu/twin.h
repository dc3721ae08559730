// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Two packs used as one scalar type: long chains of dependent operations then come in independent pairs,
// which hides their latency better than the processor's own window over thousands of instructions does.
#pragma once

#include "cpu/simd_reciprocal.h"

PYLOC_NAMESPACE_BEGIN

template <class P>
struct Twin {
  P first, second;
  PYLOC_INLINE Twin() = default;
  PYLOC_INLINE Twin(P a, P b) : first(a), second(b) {}
  template <class S>
  PYLOC_INLINE explicit Twin(S s) : first(P(s)), second(P(s)) {}
};

template <class P>
struct TwinMask {
  Mask<P> first, second;
};
template <class P>
struct MaskOf<Twin<P>> {
  using type = TwinMask<P>;
};
template <class P>
struct P3PLimits<Twin<P>> : P3PLimits<P> {};

#define PYLOC_TWIN_BINARY(Result, name)                             \
  template <class P>                                                \
  PYLOC_INLINE Result<P> name(const Twin<P>& a, const Twin<P>& b) { \
    return {name(a.first, b.first), name(a.second, b.second)};      \
  }
#define PYLOC_TWIN_OPERATOR(Result, op)                                    \
  template <class P>                                                       \
  PYLOC_INLINE Result<P> operator op(const Twin<P>& a, const Twin<P>& b) { \
    return {a.first op b.first, a.second op b.second};                     \
  }
#define PYLOC_TWIN_UNARY(name)                  \
  template <class P>                            \
  PYLOC_INLINE Twin<P> name(const Twin<P>& a) { \
    return {name(a.first), name(a.second)};     \
  }
PYLOC_TWIN_OPERATOR(Twin, +)
PYLOC_TWIN_OPERATOR(Twin, -)
PYLOC_TWIN_OPERATOR(Twin, *)
PYLOC_TWIN_OPERATOR(Twin, /)
PYLOC_TWIN_OPERATOR(TwinMask, <)
PYLOC_TWIN_OPERATOR(TwinMask, >)
PYLOC_TWIN_BINARY(Twin, min_)
PYLOC_TWIN_BINARY(Twin, max_)
PYLOC_TWIN_UNARY(operator-)
PYLOC_TWIN_UNARY(abs_)
PYLOC_TWIN_UNARY(sqrt_)
PYLOC_TWIN_UNARY(reciprocal_)
PYLOC_TWIN_UNARY(coarse_reciprocal_)
PYLOC_TWIN_UNARY(inverse_sqrt_)
PYLOC_TWIN_UNARY(cbrt_estimate_)
#undef PYLOC_TWIN_BINARY
#undef PYLOC_TWIN_OPERATOR
#undef PYLOC_TWIN_UNARY

template <class P>
PYLOC_INLINE TwinMask<P> mask_and(const TwinMask<P>& a, const TwinMask<P>& b) {
  return {mask_and(a.first, b.first), mask_and(a.second, b.second)};
}
template <class P>
PYLOC_INLINE TwinMask<P> mask_not(const TwinMask<P>& a) {
  return {mask_not(a.first), mask_not(a.second)};
}
template <class P>
PYLOC_INLINE Twin<P> select(const TwinMask<P>& m, const Twin<P>& a, const Twin<P>& b) {
  return {select(m.first, a.first, b.first), select(m.second, a.second, b.second)};
}

PYLOC_NAMESPACE_END
