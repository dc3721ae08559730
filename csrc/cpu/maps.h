// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What the methods of LossMaps do with the sparse rows: from and to dense maps, lookup, mass, peaks.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "pyloc/loss_map.h"
#include "runtime/sparse_rows.h"

namespace pyloc::cpu {

struct DenseMaps {
  const void* maps;  // (N, h, w) loss in nats
  int dtype;         // float32 or float64, as in pyloc/config.h
  std::int64_t count;
  std::int32_t h, w;
  const std::int32_t* origins;  // (N, 2) or null
  std::int32_t map_h, map_w;
  double log_cardinality;
  std::int64_t limit;  // entries kept per map
};

enum class DenseStatus : int { kOk = 0, kOutOfMemory = 1, kNotNumbers = 2 };

struct MapsKernels {
  DenseStatus (*from_dense)(const DenseMaps& in, int num_threads, runtime::SparseRows& rows);
  // out (N, h, w)
  void (*to_dense)(const LossMapsView& maps, float fill, float* out);
  // xy (M, N, 2) map points; out (M, N) nats; `clamp`: to the map's border, as the published program does
  void (*evaluate)(const LossMapsView& maps, const double* xy, std::int64_t M, bool clamp, int num_threads,
                   double* out);
  // centers (N, 2), window in cells; out (N)
  void (*mass)(const LossMapsView& maps, const double* centers, double window_w, double window_h,
               int num_threads, double* out);
  // xy (N, 2), gain (N); (-1, -1) and 0 for an empty map
  void (*peaks)(const LossMapsView& maps, std::int32_t* xy, float* gain);
  // Rows `index` (K), in that order, whose entries begin at out_ptr (K + 1)
  void (*take)(const LossMapsView& maps, const std::int64_t* index, std::int64_t K,
               const std::int64_t* out_ptr, std::int16_t* xy, float* gain);
};
}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(MapsKernels, maps_kernels)
