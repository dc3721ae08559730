// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One SIMD vocabulary for every instruction set, on the compiler's vector types: the same source is
// compiled for SSE2 or NEON, AVX2 and AVX-512. Intrinsics only where the vector types have no word.
#pragma once

#include <cstdlib>
#include <cstring>

#include "pyloc/config.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define PYLOC_SIMD_BYTES 64
#elif defined(__AVX2__)
#define PYLOC_SIMD_BYTES 32
#else
#define PYLOC_SIMD_BYTES 16
#endif

PYLOC_NAMESPACE_BEGIN

// The vector type of the instruction set's width, and the integers of a lane's size. Spelled out per type:
// GCC drops the attribute from a typedef that depends on a template parameter when it resolves overloads.
template <class T>
struct Lanes;
#define PYLOC_LANES(T, I)                                               \
  template <>                                                           \
  struct Lanes<T> {                                                     \
    typedef T Vector __attribute__((vector_size(PYLOC_SIMD_BYTES)));    \
    typedef I IntVector __attribute__((vector_size(PYLOC_SIMD_BYTES))); \
  };
PYLOC_LANES(float, std::int32_t)
PYLOC_LANES(double, std::int64_t)
PYLOC_LANES(std::int32_t, std::int32_t)
#undef PYLOC_LANES

// All bits of a lane set or none.
template <class T>
struct PackMask {
  using Raw = typename Lanes<T>::IntVector;
  Raw raw;
};

template <class T>
struct Pack {
  using Raw = typename Lanes<T>::Vector;
  static constexpr int kWidth = PYLOC_SIMD_BYTES / int(sizeof(T));
  Raw raw;

  PYLOC_INLINE Pack() = default;
  PYLOC_INLINE Pack(Raw r) : raw(r) {}
  PYLOC_INLINE Pack(T s) : raw(s - Raw{}) {}  // broadcast

  static PYLOC_INLINE Pack load(const T* p) {
    Pack r;
    std::memcpy(&r.raw, p, sizeof(Raw));
    return r;
  }
  PYLOC_INLINE void store(T* p) const { std::memcpy(p, &raw, sizeof(Raw)); }
  PYLOC_INLINE T operator[](int i) const { return raw[i]; }
  PYLOC_INLINE void set(int i, T v) { raw[i] = v; }
  static PYLOC_INLINE Pack iota() {
    Pack r;
    for (int i = 0; i < kWidth; ++i) r.raw[i] = T(i);
    return r;
  }
  // The first n lanes from memory, the others `fill`; reads nothing past p[n - 1].
  static PYLOC_INLINE Pack load_partial(const T* p, int n, T fill = T(0)) {
    Pack r(fill);
    std::memcpy(&r.raw, p, sizeof(T) * std::size_t(n));
    return r;
  }
  PYLOC_INLINE void store_partial(T* p, int n) const { std::memcpy(p, &raw, sizeof(T) * std::size_t(n)); }
};

using PackF = Pack<float>;
using PackD = Pack<double>;
using PackI = Pack<std::int32_t>;

template <class T>
struct MaskOf<Pack<T>> {
  using type = PackMask<T>;
};

#define PYLOC_PACK_OPERATOR(op)                                    \
  template <class T>                                               \
  PYLOC_INLINE Pack<T> operator op(Pack<T> a, Pack<T> b) {         \
    return Pack<T>(a.raw op b.raw);                                \
  }                                                                \
  template <class T, class S>                                      \
  PYLOC_INLINE Pack<T> operator op(Pack<T> a, S b) {               \
    return Pack<T>(a.raw op Pack<T>(T(b)).raw);                    \
  }                                                                \
  template <class T, class S>                                      \
  PYLOC_INLINE Pack<T> operator op(S a, Pack<T> b) {               \
    return Pack<T>(Pack<T>(T(a)).raw op b.raw);                    \
  }                                                                \
  template <class T>                                               \
  PYLOC_INLINE Pack<T>& operator op## = (Pack<T> & a, Pack<T> b) { \
    a.raw = a.raw op b.raw;                                        \
    return a;                                                      \
  }
PYLOC_PACK_OPERATOR(+)
PYLOC_PACK_OPERATOR(-)
PYLOC_PACK_OPERATOR(*)
PYLOC_PACK_OPERATOR(/)
#undef PYLOC_PACK_OPERATOR

template <class T>
PYLOC_INLINE Pack<T> operator-(Pack<T> a) {
  return Pack<T>(-a.raw);
}

#define PYLOC_PACK_COMPARE(op)                                 \
  template <class T>                                           \
  PYLOC_INLINE PackMask<T> operator op(Pack<T> a, Pack<T> b) { \
    return {a.raw op b.raw};                                   \
  }                                                            \
  template <class T, class S>                                  \
  PYLOC_INLINE PackMask<T> operator op(Pack<T> a, S b) {       \
    return {a.raw op Pack<T>(T(b)).raw};                       \
  }
PYLOC_PACK_COMPARE(<)
PYLOC_PACK_COMPARE(<=)
PYLOC_PACK_COMPARE(>)
PYLOC_PACK_COMPARE(>=)
PYLOC_PACK_COMPARE(==)
PYLOC_PACK_COMPARE(!=)
#undef PYLOC_PACK_COMPARE

template <class T>
PYLOC_INLINE PackMask<T> mask_and(PackMask<T> a, PackMask<T> b) {
  return {a.raw & b.raw};
}
template <class T>
PYLOC_INLINE PackMask<T> mask_or(PackMask<T> a, PackMask<T> b) {
  return {a.raw | b.raw};
}
template <class T>
PYLOC_INLINE PackMask<T> mask_not(PackMask<T> a) {
  return {~a.raw};
}
template <class T>
PYLOC_INLINE bool any(PackMask<T> m) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask((__m512i)m.raw) != 0;
  return _mm512_movepi64_mask((__m512i)m.raw) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)m.raw) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_epi8((__m128i)m.raw) != 0;
#else
  bool r = false;
  for (int i = 0; i < Pack<T>::kWidth; ++i) r |= m.raw[i] != 0;
  return r;
#endif
}
template <class T>
PYLOC_INLINE bool all(PackMask<T> m) {
  return !any(mask_not(m));
}
template <class T>
PYLOC_INLINE bool lane(PackMask<T> m, int i) {
  return m.raw[i] != 0;
}

template <class T>
PYLOC_INLINE Pack<T> select(PackMask<T> m, Pack<T> a, Pack<T> b) {
  return Pack<T>(m.raw ? a.raw : b.raw);
}
template <class T>
PYLOC_INLINE Pack<T> min_(Pack<T> a, Pack<T> b) {
  return Pack<T>(a.raw < b.raw ? a.raw : b.raw);
}
template <class T>
PYLOC_INLINE Pack<T> max_(Pack<T> a, Pack<T> b) {
  return Pack<T>(a.raw > b.raw ? a.raw : b.raw);
}
template <class T>
PYLOC_INLINE Pack<T> abs_(Pack<T> a) {
  using Int = typename Lanes<T>::IntVector;
  return Pack<T>((typename Pack<T>::Raw)((Int)a.raw & ~(Int)Pack<T>(T(-0.0)).raw));
}
// The compiler contracts this to one instruction where the target has it.
template <class T>
PYLOC_INLINE Pack<T> fma_(Pack<T> a, Pack<T> b, Pack<T> c) {
  return Pack<T>(a.raw * b.raw + c.raw);
}
template <class T>
PYLOC_INLINE PackMask<T> isfinite_(Pack<T> a) {
  return {(a.raw - a.raw) == Pack<T>(T(0)).raw};
}

PYLOC_INLINE PackF sqrt_(PackF a) {
#if defined(__AVX512F__)
  return PackF((PackF::Raw)_mm512_maskz_sqrt_ps(__mmask16(-1), (__m512)a.raw));
#elif defined(__AVX2__)
  return PackF((PackF::Raw)_mm256_sqrt_ps((__m256)a.raw));
#elif defined(__SSE2__)
  return PackF((PackF::Raw)_mm_sqrt_ps((__m128)a.raw));
#else
  PackF r;
  for (int i = 0; i < PackF::kWidth; ++i) r.raw[i] = __builtin_sqrtf(a.raw[i]);
  return r;
#endif
}
PYLOC_INLINE PackD sqrt_(PackD a) {
#if defined(__AVX512F__)
  return PackD((PackD::Raw)_mm512_maskz_sqrt_pd(__mmask8(-1), (__m512d)a.raw));
#elif defined(__AVX2__)
  return PackD((PackD::Raw)_mm256_sqrt_pd((__m256d)a.raw));
#elif defined(__SSE2__)
  return PackD((PackD::Raw)_mm_sqrt_pd((__m128d)a.raw));
#else
  PackD r;
  for (int i = 0; i < PackD::kWidth; ++i) r.raw[i] = __builtin_sqrt(a.raw[i]);
  return r;
#endif
}

PYLOC_INLINE PackF to_float(PackI a) { return PackF(__builtin_convertvector(a.raw, PackF::Raw)); }
// Truncates towards zero; lanes must fit int32.
PYLOC_INLINE PackI to_int(PackF a) { return PackI(__builtin_convertvector(a.raw, PackI::Raw)); }
// |a| < 2^31.
PYLOC_INLINE PackF floor_(PackF a) {
#if defined(__AVX512F__)
  return PackF((PackF::Raw)_mm512_roundscale_ps((__m512)a.raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  return PackF((PackF::Raw)_mm256_floor_ps((__m256)a.raw));
#else
  const PackF t = to_float(to_int(a));
  return select(t > a, t - 1.0f, t);
#endif
}
PYLOC_INLINE PackI bits(PackF a) { return PackI((PackI::Raw)a.raw); }
PYLOC_INLINE PackF from_bits(PackI a) { return PackF((PackF::Raw)a.raw); }
PYLOC_INLINE PackI shift_left(PackI a, int n) { return PackI(a.raw << n); }
PYLOC_INLINE PackI shift_right(PackI a, int n) { return PackI(a.raw >> n); }  // keeps the sign
PYLOC_INLINE PackI bit_and(PackI a, PackI b) { return PackI(a.raw & b.raw); }
PYLOC_INLINE PackI bit_or(PackI a, PackI b) { return PackI(a.raw | b.raw); }

PYLOC_INLINE PackF gather(const float* base, PackI index) {
#if defined(__AVX512F__)
  return PackF((PackF::Raw)_mm512_i32gather_ps((__m512i)index.raw, base, 4));
#elif defined(__AVX2__)
  return PackF((PackF::Raw)_mm256_i32gather_ps(base, (__m256i)index.raw, 4));
#else
  PackF r;
  for (int i = 0; i < PackF::kWidth; ++i) r.raw[i] = base[index.raw[i]];
  return r;
#endif
}
PYLOC_INLINE PackI gather(const std::int32_t* base, PackI index) {
#if defined(__AVX512F__)
  return PackI((PackI::Raw)_mm512_i32gather_epi32((__m512i)index.raw, base, 4));
#elif defined(__AVX2__)
  return PackI((PackI::Raw)_mm256_i32gather_epi32(base, (__m256i)index.raw, 4));
#else
  PackI r;
  for (int i = 0; i < PackI::kWidth; ++i) r.raw[i] = base[index.raw[i]];
  return r;
#endif
}

// Sums and extrema over the lanes in a fixed tree order.
template <class T>
PYLOC_INLINE T reduce_add(Pack<T> a) {
  T v[Pack<T>::kWidth];
  a.store(v);
  for (int step = Pack<T>::kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) v[i] += v[i + step];
  return v[0];
}
template <class T>
PYLOC_INLINE T reduce_max(Pack<T> a) {
  T v[Pack<T>::kWidth];
  a.store(v);
  for (int step = Pack<T>::kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) v[i] = v[i] > v[i + step] ? v[i] : v[i + step];
  return v[0];
}

// 2^x. Relative error below 3e-7 for x in [-126, 127]; below -126 the result is 0, above 127 it saturates.
// x = n + f with |f| <= 1/2, a degree 6 polynomial for 2^f (the Taylor series' coefficients ln(2)^k / k!,
// whose first dropped term is 1.2e-7 / 8 at |f| = 1/2), and n goes into the exponent bits.
PYLOC_INLINE PackF exp2_(PackF x) {
  const PackF clamped = min_(max_(x, PackF(-126.0f)), PackF(127.0f));
#if defined(__AVX512F__)
  const PackF n(
      (PackF::Raw)_mm512_roundscale_ps((__m512)clamped.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const PackF f = clamped - n;
#else
  const PackF n = floor_(clamped + 0.5f);
  const PackF f = clamped - n;
#endif
  PackF p(1.5403530e-4f);
  p = fma_(p, f, PackF(1.3333558e-3f));
  p = fma_(p, f, PackF(9.6181291e-3f));
  p = fma_(p, f, PackF(5.5504109e-2f));
  p = fma_(p, f, PackF(2.4022651e-1f));
  p = fma_(p, f, PackF(6.9314718e-1f));
  p = fma_(p, f, PackF(1.0f));
#if defined(__AVX512F__)
  const PackF r((PackF::Raw)_mm512_scalef_ps((__m512)p.raw, (__m512)n.raw));
#else
  const PackF r = p * from_bits(shift_left(to_int(n) + 127, 23));
#endif
  return select(x < -126.0f, PackF(0.0f), r);
}
PYLOC_INLINE PackF exp_(PackF x) { return exp2_(x * 1.44269504088896f); }

// Aligned scratch memory of trivially copyable elements: what ISA-compiled code uses in place of
// std::vector. Contents are not initialised. data() is null when the allocation failed.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::size_t count) {
    const std::size_t bytes = ((count * sizeof(T) + 63) / 64 + 1) * 64;
    data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  T* data_;
};

PYLOC_NAMESPACE_END
