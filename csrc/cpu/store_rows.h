// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Accumulators into an array of any of the four dtypes, rounded to nearest, ties to even.
#pragma once

#include "cpu/tile_pack.h"

PYLOC_NAMESPACE_BEGIN

PYLOC_INLINE std::uint16_t bf16_from_float(float v) {
  const std::uint32_t u = float_bits(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return std::uint16_t((u >> 16) | 0x40u);  // NaN stays NaN
  return std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

PYLOC_INLINE std::uint16_t float16_from_float(float v) {
  const std::uint32_t u = float_bits(v), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return std::uint16_t(sign | 0x7e00u);
  if (a >= 0x47800000u) return std::uint16_t(sign | 0x7c00u);  // 2^16 and above
  // Below 2^-14: adding 1/2 leaves the subnormal's units in the lowest bits, rounded by the processor.
  if (a < 0x38800000u) return std::uint16_t(sign | (float_bits(float_of_bits(a) + 0.5f) - 0x3f000000u));
  // The exponent from bias 127 to 15, and half a unit less one bit unless the kept part is odd.
  return std::uint16_t(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

// to[first + i * step] = from[i] in elements of the dtype.
template <class T>
inline void store_row(int dtype, const T* from, std::int64_t count, void* to, std::int64_t first,
                      std::int64_t step) {
  const auto each = [&](auto* out, const auto& convert) {
    out += first;
    for (std::int64_t i = 0; i < count; ++i) out[i * step] = convert(from[i]);
  };
  if (dtype == kFloat64) return each(static_cast<double*>(to), [](T v) { return double(v); });
  if (dtype == kBFloat16)
    return each(static_cast<std::uint16_t*>(to), [](T v) { return bf16_from_float(float(v)); });
  if (dtype == kFloat16)
    return each(static_cast<std::uint16_t*>(to), [](T v) { return float16_from_float(float(v)); });
  if (step == 1 && sizeof(T) == 4) {
    std::memcpy(static_cast<float*>(to) + first, from, sizeof(T) * std::size_t(count));
    return;
  }
  each(static_cast<float*>(to), [](T v) { return float(v); });
}

PYLOC_NAMESPACE_END
