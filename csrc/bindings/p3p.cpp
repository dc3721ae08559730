// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/p3p.h"

#include "bindings/args.h"

using namespace pyloc;

PYLOC_BINDING(p3p, m) {
  m.def(
      "p3p",
      [](std::uintptr_t bearings, std::uintptr_t points, std::int64_t count, std::uintptr_t cam_from_world,
         std::uintptr_t valid, int dtype, int num_threads) {
        using bindings::address;
        if (dtype == kFloat64)
          cpu::p3p_kernels().solve_threaded_f64(
              address<const double>(bearings), address<const double>(points), count,
              address<double>(cam_from_world), address<std::uint8_t>(valid), num_threads);
        else if (dtype == kFloat32)
          cpu::p3p_kernels().solve_threaded_f32(address<const float>(bearings), address<const float>(points),
                                                count, address<float>(cam_from_world),
                                                address<std::uint8_t>(valid), num_threads);
        else
          throw std::invalid_argument("p3p takes float32 or float64");
      },
      bindings::py::call_guard<bindings::py::gil_scoped_release>());
}
