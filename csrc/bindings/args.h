// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// From the tuples that pyloc_core's Python types hand over to the plain structs of the headers.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "bindings/binding.h"
#include "pyloc/camera.h"

namespace pyloc::bindings {

template <class T>
inline T* address(std::uintptr_t value) {
  return reinterpret_cast<T*>(value);
}

// pyloc_core.camera.camera_native_args: (kind, fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, k5, k6).
inline Camera<double> camera_from(const py::tuple& values) {
  if (values.size() != 13) throw std::invalid_argument("a camera takes 13 values");
  Camera<double> cam{};
  cam.kind = static_cast<int>(values[0].cast<double>());
  cam.fx = values[1].cast<double>();
  cam.fy = values[2].cast<double>();
  cam.cx = values[3].cast<double>();
  cam.cy = values[4].cast<double>();
  for (std::size_t i = 0; i < 8; ++i) cam.d[i] = values[5 + i].cast<double>();
  return cam;
}

}  // namespace pyloc::bindings
