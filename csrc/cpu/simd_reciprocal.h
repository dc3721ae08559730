// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Reciprocals and inverse roots of packs from the processor's estimates and Newton steps, and a coarse
// cube root: what pyloc/p3p.h needs beyond simd.h. Zero, infinity and subnormal input give NaN or infinity.
#pragma once

#include "cpu/simd.h"
#include "pyloc/p3p.h"

PYLOC_NAMESPACE_BEGIN

template <class T>
struct P3PLimits<Pack<T>> : P3PLimits<T> {};

// Newton: r (2 - a r) squares the relative error of a reciprocal r, r (3 - a r^2) / 2 makes it 3/2 of its
// square for an inverse root. Written as corrections, which round less.
template <class T>
PYLOC_INLINE Pack<T> refine_reciprocal(Pack<T> a, Pack<T> r) {
  return fma_(r, fma_(-a, r, Pack<T>(T(1))), r);
}
template <class T>
PYLOC_INLINE Pack<T> refine_inverse_sqrt(Pack<T> a, Pack<T> r) {
  const Pack<T> half = r * T(0.5);
  return fma_(half, fma_(-(a * r), r, Pack<T>(T(1))), r);
}

#if defined(__AVX512F__)
PYLOC_INLINE PackF coarse_reciprocal_(PackF a) {
  return PackF((PackF::Raw)_mm512_maskz_rcp14_ps(__mmask16(-1), (__m512)a.raw));
}
PYLOC_INLINE PackD coarse_reciprocal_(PackD a) {
  return PackD((PackD::Raw)_mm512_maskz_rcp14_pd(__mmask8(-1), (__m512d)a.raw));
}
PYLOC_INLINE PackF coarse_inverse_sqrt(PackF a) {
  return PackF((PackF::Raw)_mm512_maskz_rsqrt14_ps(__mmask16(-1), (__m512)a.raw));
}
PYLOC_INLINE PackD coarse_inverse_sqrt(PackD a) {
  return PackD((PackD::Raw)_mm512_maskz_rsqrt14_pd(__mmask8(-1), (__m512d)a.raw));
}
PYLOC_INLINE PackF reciprocal_(PackF a) { return refine_reciprocal(a, coarse_reciprocal_(a)); }
PYLOC_INLINE PackD reciprocal_(PackD a) {
  return refine_reciprocal(a, refine_reciprocal(a, coarse_reciprocal_(a)));
}
PYLOC_INLINE PackF inverse_sqrt_(PackF a) { return refine_inverse_sqrt(a, coarse_inverse_sqrt(a)); }
PYLOC_INLINE PackD inverse_sqrt_(PackD a) {
  return refine_inverse_sqrt(a, refine_inverse_sqrt(a, coarse_inverse_sqrt(a)));
}
#else
#if defined(__SSE2__)
PYLOC_INLINE PackF coarse_reciprocal_(PackF a) {
#if defined(__AVX2__)
  return PackF((PackF::Raw)_mm256_rcp_ps((__m256)a.raw));
#else
  return PackF((PackF::Raw)_mm_rcp_ps((__m128)a.raw));
#endif
}
PYLOC_INLINE PackF coarse_inverse_sqrt(PackF a) {
#if defined(__AVX2__)
  return PackF((PackF::Raw)_mm256_rsqrt_ps((__m256)a.raw));
#else
  return PackF((PackF::Raw)_mm_rsqrt_ps((__m128)a.raw));
#endif
}
PYLOC_INLINE PackF reciprocal_(PackF a) { return refine_reciprocal(a, coarse_reciprocal_(a)); }
PYLOC_INLINE PackF inverse_sqrt_(PackF a) { return refine_inverse_sqrt(a, coarse_inverse_sqrt(a)); }
#else
PYLOC_INLINE PackF reciprocal_(PackF a) { return PackF(1.0f) / a; }
PYLOC_INLINE PackF coarse_reciprocal_(PackF a) { return reciprocal_(a); }
PYLOC_INLINE PackF inverse_sqrt_(PackF a) { return PackF(1.0f) / sqrt_(a); }
#endif
PYLOC_INLINE PackD reciprocal_(PackD a) { return PackD(1.0) / a; }
PYLOC_INLINE PackD coarse_reciprocal_(PackD a) { return reciprocal_(a); }
PYLOC_INLINE PackD inverse_sqrt_(PackD a) { return PackD(1.0) / sqrt_(a); }
#endif

// The twins of the scalar forms in pyloc/p3p.h.
PYLOC_INLINE PackF cbrt_estimate_(PackF a) {
  typedef std::uint32_t Bits __attribute__((vector_size(PYLOC_SIMD_BYTES)));
  const Bits i = (Bits)a.raw;
  return PackF((PackF::Raw)((i >> 2) + (i >> 4) + (i >> 6) + (i >> 8) + 711366804u));
}
PYLOC_INLINE PackD cbrt_estimate_(PackD a) {
  typedef std::uint64_t Bits __attribute__((vector_size(PYLOC_SIMD_BYTES)));
  const Bits i = (Bits)a.raw;
  return PackD((PackD::Raw)((i >> 2) + (i >> 4) + (i >> 6) + (i >> 8) + 3077316521519189328ull));
}

PYLOC_NAMESPACE_END
