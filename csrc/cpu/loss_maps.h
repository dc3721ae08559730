// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Sparse loss maps from descriptors and features, L = min(ln|O|, -ln C) (thesis, Eq. 4.7).
#pragma once

#include <cstdint>

#include "cpu/correlation_problem.h"
#include "cpu/kernels.h"
#include "runtime/sparse_rows.h"

namespace pyloc::cpu {

struct LossMapsOptions {
  double temperature;
  double log_cardinality;  // ln|O|
  double epsilon;          // added to every probability (published program); 0 otherwise
  std::int64_t limit;      // entries kept per map
};

struct LossMapsKernels {
  // A CorrelationStatus. Height and width at most 32000.
  int (*loss_maps)(const CorrelationProblem& problem, const LossMapsOptions& options,
                   runtime::SparseRows& rows);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(LossMapsKernels, loss_maps_kernels)
