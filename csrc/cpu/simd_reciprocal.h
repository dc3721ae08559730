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

PYLOC_INLINE PackF reciprocal_(PackF a) { return PackF(1.0f) / a; }
PYLOC_INLINE PackD reciprocal_(PackD a) { return PackD(1.0) / a; }
PYLOC_INLINE PackF inverse_sqrt_(PackF a) { return PackF(1.0f) / sqrt_(a); }
PYLOC_INLINE PackD inverse_sqrt_(PackD a) { return PackD(1.0) / sqrt_(a); }

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
