// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Dense correlation maps c_n and correspondence maps C_n = softmax(c_n).
#pragma once

#include <cstdint>

#include "cpu/correlation_problem.h"
#include "cpu/kernels.h"

namespace pyloc::cpu {

struct CorrelationMapsKernels {
  // maps (N, H, W) float32: c_n, or with `softmax` C_n. A CorrelationStatus.
  int (*correlation_maps)(const CorrelationProblem& problem, double temperature, bool softmax, float* maps);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(CorrelationMapsKernels, correlation_maps_kernels)
