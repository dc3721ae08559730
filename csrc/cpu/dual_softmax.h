// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// log P = 2 S / T - LSE over the row - LSE over the column, and its gradient.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct DualSoftmaxProblem {
  const void* scores;  // (B, m, n), C-contiguous
  int dtype;           // float32, float16 or bfloat16 of pyloc/config.h
  std::int64_t batch, rows, columns;
  const std::int64_t* num_rows;     // (B): scores that count, from the first row on; null: all
  const std::int64_t* num_columns;  // (B)
  double temperature;               // T
  int num_threads;
};

struct DualSoftmaxOutput {
  void* log_assignment;   // (B, m, n) in the scores' dtype
  float* row_log_sum;     // (B, m): LSE of S / T, -inf for what is masked
  float* column_log_sum;  // (B, n)
};

struct DualSoftmaxGradients {
  const float *row_log_sum, *column_log_sum;  // of the forward pass
  const float* slope;                         // (B, m, n): gradient of log P
  float* d_scores;                            // (B, m, n)
};

enum DualSoftmaxStatus : int { kDualSoftmaxDone = 0, kDualSoftmaxOutOfMemory = 1, kDualSoftmaxScores = 2 };

struct DualSoftmaxKernels {
  int (*forward)(const DualSoftmaxProblem& problem, const DualSoftmaxOutput& out);
  int (*backward)(const DualSoftmaxProblem& problem, const DualSoftmaxGradients& gradients);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(DualSoftmaxKernels, dual_softmax_kernels)
