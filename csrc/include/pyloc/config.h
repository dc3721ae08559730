// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Compiler portability of the shared headers. Every header puts its code between
// PYLOC_NAMESPACE_BEGIN and PYLOC_NAMESPACE_END.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define PYLOC_HD __host__ __device__
#define PYLOC_INLINE __forceinline__
#define PYLOC_COLD inline __noinline__  // rarely run: its registers are not to count for what calls it
#else
#define PYLOC_COLD inline
#define PYLOC_HD
#define PYLOC_INLINE inline __attribute__((always_inline))
#endif

// The same inline function is compiled once per instruction set. Without a namespace per variant the
// linker would merge the copies and an old processor could be handed the AVX-512 one.
#ifndef PYLOC_ISA
#define PYLOC_ISA portable
#endif
#define PYLOC_NAMESPACE_BEGIN \
  namespace pyloc {           \
  inline namespace PYLOC_ISA {
#define PYLOC_NAMESPACE_END \
  }                         \
  }

PYLOC_NAMESPACE_BEGIN

// Element types of arrays as the native interface numbers them (pyloc_core/_arrays.py holds the twin).
enum DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

// Scalar forms of the functions that templated code calls on SIMD packs as well.
template <class T>
struct MaskOf {
  using type = bool;
};
template <class T>
using Mask = typename MaskOf<T>::type;

PYLOC_HD PYLOC_INLINE float select(bool mask, float a, float b) { return mask ? a : b; }
PYLOC_HD PYLOC_INLINE double select(bool mask, double a, double b) { return mask ? a : b; }
PYLOC_HD PYLOC_INLINE bool mask_and(bool a, bool b) { return a && b; }
PYLOC_HD PYLOC_INLINE bool mask_or(bool a, bool b) { return a || b; }
PYLOC_HD PYLOC_INLINE bool mask_not(bool a) { return !a; }
PYLOC_HD PYLOC_INLINE bool any(bool a) { return a; }
PYLOC_HD PYLOC_INLINE bool all(bool a) { return a; }
PYLOC_HD PYLOC_INLINE float sqrt_(float a) { return ::sqrtf(a); }
PYLOC_HD PYLOC_INLINE double sqrt_(double a) { return ::sqrt(a); }
PYLOC_HD PYLOC_INLINE float abs_(float a) { return ::fabsf(a); }
PYLOC_HD PYLOC_INLINE double abs_(double a) { return ::fabs(a); }
PYLOC_HD PYLOC_INLINE float min_(float a, float b) { return a < b ? a : b; }
PYLOC_HD PYLOC_INLINE double min_(double a, double b) { return a < b ? a : b; }
PYLOC_HD PYLOC_INLINE float max_(float a, float b) { return a > b ? a : b; }
PYLOC_HD PYLOC_INLINE double max_(double a, double b) { return a > b ? a : b; }
PYLOC_HD PYLOC_INLINE float fma_(float a, float b, float c) { return a * b + c; }
PYLOC_HD PYLOC_INLINE double fma_(double a, double b, double c) { return a * b + c; }
PYLOC_HD PYLOC_INLINE float floor_(float a) { return ::floorf(a); }
PYLOC_HD PYLOC_INLINE double floor_(double a) { return ::floor(a); }
PYLOC_HD PYLOC_INLINE float exp_(float a) { return ::expf(a); }
PYLOC_HD PYLOC_INLINE double exp_(double a) { return ::exp(a); }
PYLOC_HD PYLOC_INLINE float log_(float a) { return ::logf(a); }
PYLOC_HD PYLOC_INLINE double log_(double a) { return ::log(a); }
PYLOC_HD PYLOC_INLINE bool isfinite_(float a) { return (a - a) == 0.0f; }
PYLOC_HD PYLOC_INLINE bool isfinite_(double a) { return (a - a) == 0.0; }

PYLOC_NAMESPACE_END
