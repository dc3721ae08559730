// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// NetVLAD: residuals of the features from the centroids, summed by soft assignment, and the gradients of the
// descriptor.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct NetvladProblem {
  const void *features, *logits;  // (B, D, n), (B, K, n); C-contiguous
  int feature_dtype, logit_dtype;
  const float* centroids;                        // (K, D)
  std::int64_t batch, depth, clusters, patches;  // B, D, K, n
  const std::int64_t* num_columns;               // (B): patches that count, 1 to n; null: all
  int num_threads;
};

struct NetvladOutput {
  float* descriptor;  // (B, K D), cluster-major
  float* residual;    // (B, K, D): sum_j w_kj (x_j - c_k)
  float* log_sum;     // (B, n): ln sum_k exp s_kj, +inf from num_columns on; may be null
};

struct NetvladGradients {
  const float *residual, *d_descriptor;
  void *d_features, *d_logits;  // in the dtypes of features and logits
  float* d_centroids;
};

// Both return an AggregateStatus (aggregate_items.h).
struct NetvladAggregateKernels {
  int (*forward)(const NetvladProblem& problem, const NetvladOutput& out);
  int (*backward)(const NetvladProblem& problem, const NetvladGradients& gradients);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(NetvladAggregateKernels, netvlad_aggregate_kernels)
