// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What is kept of every correlation map: argmax, ln C there, ratio-test quantity, entropy.
#pragma once

#include <cstdint>

#include "cpu/correlation_problem.h"
#include "cpu/kernels.h"

namespace pyloc::cpu {

struct MatchOptions {
  double temperature;
  std::int64_t rank;  // of the value the ratio test compares with, 1 the largest; 0: no ratio test
  bool subcell;       // quadratic peak in the 3 x 3 neighbourhood
};

struct MatchOutput {
  double* xy;              // (N, 2)
  float* log_probability;  // (N)
  float* quantile_ratio;   // (N), used when rank > 0
  float* entropy;          // (N), or null
};

struct MatchKernels {
  // A CorrelationStatus.
  int (*match)(const CorrelationProblem& problem, const MatchOptions& options, const MatchOutput& output);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(MatchKernels, match_kernels)
