// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Entropic optimal transport by Sinkhorn's iteration, and its gradients.
//   u_i = log a_i - LSE_j(A_ij + v_j),  v_j = log b_j - LSE_i(A_ij + u_i),  log P = A + u + v
// A (M, N) is the item's scores (m, n), with a dustbin row (sides 1) or row and column (3) appended.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct SinkhornProblem {
  const void* scores;  // (B, m, n), C-contiguous
  int dtype;           // float32, float16 or bfloat16 of pyloc/config.h
  std::int64_t batch, rows, columns;
  int dustbin_sides;          // 0: M = m, N = n; 1: M = m + 1; 3: M = m + 1, N = n + 1
  const float* dustbin;       // (B), null without dustbins
  const float* log_row_mass;  // (B, M): item b at b * row_mass_stride
  std::int64_t row_mass_stride;
  const float* log_column_mass;  // (B, N)
  std::int64_t column_mass_stride;
  const std::int64_t* num_rows;     // (B): scores that count, from the first row on; null: all
  const std::int64_t* num_columns;  // (B)
  std::int64_t iterations;
  double tolerance;  // 0: none
  int num_threads;
};

// `kept` is T: all iterations (after the last one that ran, its values again) or 1, the last. u and v, and
// count, may be null.
struct SinkhornOutput {
  std::int64_t kept;
  void* log_assignment;  // (B, M, N) in the scores' dtype; the backward pass reads float32
  float* u;              // (T, B, M)
  float* v;              // (T, B, N)
  std::int32_t* count;   // (B): iterations that ran
};

struct SinkhornGradients {
  SinkhornOutput forward;
  const float* slope;  // (B, M, N): gradient of log P
  bool implicit;       // of the fixed point at the last u, v, instead of the iterations that ran
  float* d_scores;     // (B, m, n)
  float *d_log_row_mass, *d_log_column_mass;
  float* d_dustbin;  // (B)
};

// Twin in pyloc_core/_sinkhorn.py. Values refused: NaN and +infinity.
enum SinkhornStatus : int {
  kSinkhornDone = 0,
  kSinkhornOutOfMemory = 1,
  kSinkhornScores = 2,
  kSinkhornRowMass = 3,
  kSinkhornColumnMass = 4,
  kSinkhornDustbin = 5,
  kSinkhornBalance = 6,
};

struct SinkhornKernels {
  int (*forward)(const SinkhornProblem& problem, const SinkhornOutput& out);
  int (*backward)(const SinkhornProblem& problem, const SinkhornGradients& gradients);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(SinkhornKernels, sinkhorn_kernels)
