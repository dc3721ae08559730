// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gated attention O = softmax(g S) V, S = scale Q K^T, g_i = sigmoid(max_j S_ij), and its gradients.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct AttentionProblem {
  const void* queries;  // (B, heads, N, d), C-contiguous
  const void* keys;     // (B, heads, M, d)
  const void* values;   // (B, heads, M, dv)
  int dtype;            // of all three: float32, float16 or bfloat16 of pyloc/config.h
  std::int64_t batch, heads;
  std::int64_t n_queries, n_keys;   // N, M
  std::int64_t depth, value_depth;  // d, dv
  const std::int64_t* num_valid;    // (B): keys that count, from the first on, 1 to M; null: all
  double scale;
  int num_threads;
};

struct AttentionOutput {
  float* out;          // (B, heads, N, dv)
  float* peak;         // (B, heads, N): max_j S_ij
  float* log_sum;      // (B, heads, N): ln sum_j exp(g S_ij)
  std::int32_t* best;  // (B, heads, N): the first j with S_ij = peak
};

struct AttentionGradients {
  AttentionOutput forward;  // what `forward` wrote
  const float* d_out;       // (B, heads, N, dv)
  float *d_queries, *d_keys, *d_values;
};

enum AttentionStatus : int { kAttentionDone = 0, kAttentionOutOfMemory = 1 };

struct GatedAttentionKernels {
  int (*forward)(const AttentionProblem& problem, const AttentionOutput& out);
  int (*backward)(const AttentionProblem& problem, const AttentionGradients& gradients);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(GatedAttentionKernels, gated_attention_kernels)
