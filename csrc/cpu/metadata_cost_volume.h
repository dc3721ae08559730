// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The metadata cost volume: 2 C + 14 values per (view, plane, cell) through two hidden layers to a score and
// a weight logit, softmax of the logits over the views, weighted sum of the scores; and its gradients.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct MetadataProblem {
  const void *reference, *sources;  // (B, C, H, W), (B, V, C, Hs, Ws); C-contiguous
  int reference_dtype, source_dtype;
  // (h1, 2 C + 14), (h1), (h2, h1), (h2), (2, h2), (2)
  const float *w1, *b1, *w2, *b2, *w3, *b3;
  // (B, V, 3, 4), (B, 3, 3), (B, V, 3), (B, V, 3), (B, D) or (B, D, H, W), (B, 2): dmin, dmax
  const float *projection, *rays, *centres, *pose_values, *depths, *depth_limits;
  const std::int64_t* num_views;  // (B): views that count, 1 to V; null: all
  std::int64_t batch, views, channels, planes, height, width, source_height, source_width, hidden1, hidden2;
  bool depth_per_cell;
  int num_threads;
};

struct MetadataGradients {
  const float* d_volume;           // (B, D, H, W)
  float *d_reference, *d_sources;  // float32
  float *d_w1, *d_b1, *d_w2, *d_b2, *d_w3, *d_b3;
};

// Status of the kernels; twin in pyloc_core/_metadata.py.
enum MetadataStatus : int { kMetadataDone = 0, kMetadataOutOfMemory = 1 };

struct MetadataCostVolumeKernels {
  // volume (B, D, H, W); log_sum (B, D, H, W): ln of the softmax denominator,
  // may be null.
  int (*forward)(const MetadataProblem& problem, float* volume, float* log_sum);
  // volume and log_sum as forward gave them for float32 features; null: found again.
  int (*backward)(const MetadataProblem& problem, const float* volume, const float* log_sum,
                  const MetadataGradients& gradients);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(MetadataCostVolumeKernels, metadata_cost_volume_kernels)
