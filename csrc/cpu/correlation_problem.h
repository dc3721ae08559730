// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Descriptors against feature maps of one or several levels, as the bindings hand them to the kernels that
// stream over correlation maps.
#pragma once

#include <cstdint>

namespace pyloc::cpu {

struct CorrelationLevel {
  const void* descriptors;  // (N, D), C-contiguous
  int descriptor_dtype;     // DType of pyloc/config.h
  const void* features;     // D, H, W with the strides below (in elements), cells of a row side by side:
  int feature_dtype;        // the flat cell y * W + x lies at (y * W + x) * cell_stride
  std::int64_t plane_stride;
  std::int64_t cell_stride;
  std::int64_t depth;
  std::int64_t height, width;
};

struct CorrelationProblem {
  const CorrelationLevel* levels;
  int n_levels;
  std::int64_t count;          // N
  std::int64_t height, width;  // of the map that the levels are brought to
  int num_threads;             // <= 0: the default
};

// What a kernel reports: 0, or one of these plus 8 times the level it concerns.
enum CorrelationStatus : int {
  kCorrelationDone = 0,
  kOutOfMemory = 1,
  kDescriptorsNotFinite = 2,
  kFeaturesNotFinite = 3,
  kProductsTooLarge = 4,  // |h| |F| D may exceed what float32 holds
};

}  // namespace pyloc::cpu
