// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// SALAD: patches assigned to clusters and a dustbin by optimal transport, features summed by assignment, and
// the gradients of the descriptor.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct SaladProblem {
  const void *scores, *features, *token;  // (B, m, n), (B, l, n), (B, t) or null; C-contiguous
  int score_dtype, feature_dtype, token_dtype;
  std::int64_t batch, clusters, patches, depth, token_depth;  // B, m, n, l, t
  const std::int64_t* num_columns;  // (B): patches that count, from the first on, m + 1 to n; null: all
  double dustbin;
  std::int64_t iterations;  // T
  int num_threads;
};

struct SaladOutput {
  float* descriptor;  // (B, t + l m), dimension-major behind the token
  float* aggregate;   // (B, l, m) before its normalisation
  float *u, *v;       // (T, B, m + 1) and (T, B, n), ln of the scalings after every iteration; may be null
};

struct SaladGradients {
  const float *aggregate, *d_descriptor;
  void *d_scores, *d_features;  // in the dtypes of scores and features
  float* d_token;
};

// Both return an AggregateStatus (aggregate_items.h).
struct SaladAggregateKernels {
  int (*forward)(const SaladProblem& problem, const SaladOutput& out);
  int (*backward)(const SaladProblem& problem, const SaladGradients& gradients);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(SaladAggregateKernels, salad_aggregate_kernels)
