// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/finite.h"

#include "pyloc/config.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// A float is NaN or infinite when all exponent bits are set. Blocks keep the loop free of branches, so
// that it runs at the speed of memory, and still stop early.
template <class Bits>
bool all_finite_bits(const Bits* p, std::int64_t count, Bits exponent) {
  constexpr std::int64_t kBlock = 4096;
  for (std::int64_t start = 0; start < count; start += kBlock) {
    const std::int64_t end = start + kBlock < count ? start + kBlock : count;
    Bits bad = 0;
    for (std::int64_t i = start; i < end; ++i) bad |= Bits((p[i] & exponent) == exponent);
    if (bad) return false;
  }
  return true;
}

bool all_finite(const void* data, std::int64_t count, int dtype) {
  switch (dtype) {
    case kFloat64:
      return all_finite_bits(static_cast<const std::uint64_t*>(data), count,
                             std::uint64_t(0x7ff0000000000000));
    case kFloat16:
      return all_finite_bits(static_cast<const std::uint16_t*>(data), count, std::uint16_t(0x7c00));
    case kBFloat16:
      return all_finite_bits(static_cast<const std::uint16_t*>(data), count, std::uint16_t(0x7f80));
    default:
      return all_finite_bits(static_cast<const std::uint32_t*>(data), count, std::uint32_t(0x7f800000));
  }
}

}  // namespace

const FiniteKernels& finite_kernels() {
  static constexpr FiniteKernels kernels{&all_finite};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
