// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/finite.h"

#include "bindings/args.h"

using namespace pyloc;

PYLOC_BINDING(finite, m) {
  m.def(
      "all_finite",
      [](std::uintptr_t data, std::int64_t count, int dtype) {
        return cpu::finite_kernels().all_finite(bindings::address<const void>(data), count, dtype);
      },
      bindings::py::call_guard<bindings::py::gil_scoped_release>());
}
