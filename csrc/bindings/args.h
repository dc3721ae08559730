// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// From the tuples that pyloc_core's Python types hand over to the plain structs of the headers.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "bindings/binding.h"
#include "pyloc/camera.h"
#include "pyloc/loss_map.h"

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

// pyloc_core.maps.LossMaps.native_args: (count, row_ptr, xy, gain, origins or 0, window_w, window_h,
// map_w, map_h, log_cardinality, flat_gain or 0). The arrays stay the caller's.
inline LossMapsView loss_maps_from(const py::tuple& values) {
  if (values.size() != 11) throw std::invalid_argument("loss maps take 11 values");
  LossMapsView maps{};
  maps.count = values[0].cast<std::int64_t>();
  maps.row_ptr = address<const std::int64_t>(values[1].cast<std::uintptr_t>());
  maps.xy = address<const std::int16_t>(values[2].cast<std::uintptr_t>());
  maps.gain = address<const float>(values[3].cast<std::uintptr_t>());
  maps.origins = address<const std::int32_t>(values[4].cast<std::uintptr_t>());
  maps.window_w = values[5].cast<std::int32_t>();
  maps.window_h = values[6].cast<std::int32_t>();
  maps.map_w = values[7].cast<std::int32_t>();
  maps.map_h = values[8].cast<std::int32_t>();
  maps.log_cardinality = values[9].cast<double>();
  maps.flat_gain = address<const float>(values[10].cast<std::uintptr_t>());
  return maps;
}

}  // namespace pyloc::bindings
