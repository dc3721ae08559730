// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Plane sweep: inner products of a reference's features with those of other views, plane by plane.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

// Twin: REDUCTIONS in pyloc_core/_sweep_native.py.
enum SweepReduce : int { kSweepMean = 0, kSweepValidMean = 1, kSweepNone = 2 };

struct SweepProblem {
  const void *reference, *sources;  // (B, C, H, W), (B, V, C, Hs, Ws); C-contiguous, of one dtype
  int dtype;
  const float* projection;        // (B, V, 3, 4): [M | m] of pyloc/plane_sweep.h
  const float* depths;            // (B, D), or (B, D, H, W) when per_cell
  bool per_cell;                  //
  const std::int64_t* num_views;  // (B): views that count, 1 to V; null: all
  std::int64_t batch, views, channels, planes, height, width, source_height, source_width;
  int reduce;  // a SweepReduce
  int num_threads;
};

// False when memory ran out. volume and mask: (B, D, H, W), or (B, V, D, H, W) for kSweepNone. Volume and
// gradients are in the dtype of the features, d_volume is float32.
struct PlaneSweepKernels {
  bool (*forward)(const SweepProblem& problem, void* volume);
  bool (*backward)(const SweepProblem& problem, const float* d_volume, void* d_reference, void* d_sources);
  bool (*mask)(const SweepProblem& problem, bool* mask);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(PlaneSweepKernels, plane_sweep_kernels)
