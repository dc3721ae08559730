// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Are all values of an array finite? What every front door asks before a kernel runs.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {
struct FiniteKernels {
  // `dtype` as in pyloc/config.h; false for the first exponent with all bits set.
  bool (*all_finite)(const void* data, std::int64_t count, int dtype);
};
}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(FiniteKernels, finite_kernels)
