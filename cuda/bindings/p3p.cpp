// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/p3p.h"

#include "cuda/bindings/launch.h"
#include "pyloc/config.h"

using namespace pyloc;
using bindings::address;

namespace {

template <class T>
cudaError_t run(std::uintptr_t bearings, std::uintptr_t points, std::int64_t count,
                std::uintptr_t cam_from_world, std::uintptr_t valid, cudaStream_t stream) {
  return cuda::p3p(address<const T>(bearings), address<const T>(points), count, address<T>(cam_from_world),
                   address<std::uint8_t>(valid), stream);
}

}  // namespace

PYLOC_BINDING(p3p, m) {
  m.def(
      "p3p",
      [](std::uintptr_t bearings, std::uintptr_t points, std::int64_t count, std::uintptr_t cam_from_world,
         std::uintptr_t valid, int dtype, int device, std::uintptr_t stream) {
        if (dtype != kFloat32 && dtype != kFloat64)
          throw std::invalid_argument("p3p takes float32 or float64");
        const bindings::Launch launch(device, stream);
        const auto solve = dtype == kFloat32 ? &run<float> : &run<double>;
        bindings::check_cuda(solve(bearings, points, count, cam_from_world, valid, launch.stream()), "p3p");
      },
      bindings::py::call_guard<bindings::py::gil_scoped_release>());
}
