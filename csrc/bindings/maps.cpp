// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/maps.h"

#include "bindings/args.h"
#include "bindings/sparse_rows.h"

using namespace pyloc;
using bindings::address;
using bindings::loss_maps_from;

PYLOC_BINDING(maps, m) {
  namespace py = bindings::py;
  using Address = std::uintptr_t;
  m.def(
      "maps_from_dense",
      [](Address maps, int dtype, std::int64_t count, std::int32_t h, std::int32_t w, Address origins,
         std::int32_t map_h, std::int32_t map_w, double log_cardinality, std::int64_t limit, int num_threads,
         bindings::OwnedRows& out) {
        const cpu::DenseMaps in{
            address<const void>(maps), dtype, count, h, w, address<const std::int32_t>(origins), map_h, map_w,
            log_cardinality,           limit};
        return static_cast<int>(cpu::maps_kernels().from_dense(in, num_threads, out.rows));
      },
      py::call_guard<py::gil_scoped_release>());
  m.def("maps_to_dense", [](const py::tuple& maps, float fill, Address out) {
    const auto view = loss_maps_from(maps);
    const py::gil_scoped_release release;
    cpu::maps_kernels().to_dense(view, fill, address<float>(out));
  });
  m.def("maps_evaluate",
        [](const py::tuple& maps, Address xy, std::int64_t poses, bool clamp, int num_threads, Address out) {
          const auto view = loss_maps_from(maps);
          const py::gil_scoped_release release;
          cpu::maps_kernels().evaluate(view, address<const double>(xy), poses, clamp, num_threads,
                                       address<double>(out));
        });
  m.def("maps_mass", [](const py::tuple& maps, Address centers, double window_w, double window_h,
                        int num_threads, Address out) {
    const auto view = loss_maps_from(maps);
    const py::gil_scoped_release release;
    cpu::maps_kernels().mass(view, address<const double>(centers), window_w, window_h, num_threads,
                             address<double>(out));
  });
  m.def("maps_peaks", [](const py::tuple& maps, Address xy, Address gain) {
    const auto view = loss_maps_from(maps);
    const py::gil_scoped_release release;
    cpu::maps_kernels().peaks(view, address<std::int32_t>(xy), address<float>(gain));
  });
  m.def("maps_take", [](const py::tuple& maps, Address index, std::int64_t count, Address row_ptr, Address xy,
                        Address gain) {
    const auto view = loss_maps_from(maps);
    const py::gil_scoped_release release;
    cpu::maps_kernels().take(view, address<const std::int64_t>(index), count,
                             address<const std::int64_t>(row_ptr), address<std::int16_t>(xy),
                             address<float>(gain));
  });
}
