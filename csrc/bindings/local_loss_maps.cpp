// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/local_loss_maps.h"

#include "bindings/args.h"
#include "bindings/sparse_rows.h"

using namespace pyloc;
using bindings::address;

PYLOC_BINDING(local_loss_maps, m) {
  m.def(
      "local_loss_maps",
      [](std::uintptr_t descriptors, std::uintptr_t features, int dtype, std::int64_t count, std::int32_t D,
         std::int32_t H, std::int32_t W, std::uintptr_t origins, std::int32_t window_h, std::int32_t window_w,
         std::uintptr_t log_weight, double temperature, double log_cardinality, double epsilon,
         bool zeros_outside, std::int32_t shift, std::int64_t limit, int num_threads,
         bindings::OwnedRows& out) {
        const cpu::LocalWindows in{address<const float>(descriptors),
                                   address<const void>(features),
                                   dtype,
                                   count,
                                   D,
                                   H,
                                   W,
                                   address<const std::int32_t>(origins),
                                   window_w,
                                   window_h,
                                   address<const double>(log_weight),
                                   temperature,
                                   log_cardinality,
                                   epsilon,
                                   zeros_outside,
                                   shift,
                                   limit};
        return static_cast<int>(cpu::local_loss_maps_kernels().run(in, num_threads, out.rows));
      },
      bindings::py::call_guard<bindings::py::gil_scoped_release>());
}
