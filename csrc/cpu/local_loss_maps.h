// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Loss maps in windows of a fine feature map (thesis, section 4.4.3).
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "runtime/sparse_rows.h"

namespace pyloc::cpu {

struct LocalWindows {
  const float* descriptors;  // (N, D)
  const void* features;      // (D, H, W) of dtype `features_dtype`
  int features_dtype;        // float32, float16 or bfloat16, as in pyloc/config.h
  std::int64_t count;        // N
  std::int32_t D, H, W;
  const std::int32_t* origins;  // (N, 2): map cell (x, y) of a window's first cell
  std::int32_t window_w, window_h;
  const double* log_weight;  // (N): ln(mass * scale); -inf drops the map
  double temperature;
  double log_cardinality;  // ln|O| of the full fine map
  double epsilon;          // added to every probability (published program); 0 otherwise
  bool zeros_outside;      // cells outside the map enter the softmax with logit 0 (published)
  std::int32_t shift;      // added to where entries are stored (published misplacement); 0 otherwise
  std::int64_t limit;      // entries kept per map
};

enum class LocalStatus : int { kOk = 0, kOutOfMemory = 1, kNotFinite = 2 };

struct LocalLossMapsKernels {
  LocalStatus (*run)(const LocalWindows& in, int num_threads, runtime::SparseRows& rows);
};
}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(LocalLossMapsKernels, local_loss_maps_kernels)
