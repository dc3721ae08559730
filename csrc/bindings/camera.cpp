// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/camera.h"

#include "bindings/args.h"

using namespace pyloc;

PYLOC_BINDING(camera, m) {
  m.def("camera_project", [](const bindings::py::tuple& camera, std::uintptr_t points, std::int64_t count,
                             std::uintptr_t xy, std::uintptr_t valid) {
    const auto cam = bindings::camera_from(camera);
    const bindings::py::gil_scoped_release release;
    cpu::camera_kernels().project(cam, bindings::address<const double>(points), count,
                                  bindings::address<double>(xy), bindings::address<std::uint8_t>(valid));
  });
  m.def("camera_unproject", [](const bindings::py::tuple& camera, std::uintptr_t xy, std::int64_t count,
                               std::uintptr_t bearings) {
    const auto cam = bindings::camera_from(camera);
    const bindings::py::gil_scoped_release release;
    cpu::camera_kernels().unproject(cam, bindings::address<const double>(xy), count,
                                    bindings::address<double>(bearings));
  });
}
