// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "bindings/sparse_rows.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

PYLOC_TYPE_BINDING(sparse_rows, m) {
  namespace py = bindings::py;
  using Rows = bindings::OwnedRows;
  py::class_<Rows>(m, "SparseRows")
      .def(py::init<std::int64_t>())
      .def_property_readonly("entries", [](const Rows& r) { return runtime::total_entries(r.rows); })
      .def(
          "compress",
          [](const Rows& r, std::uintptr_t row_ptr, std::uintptr_t xy, std::uintptr_t gain) {
            runtime::compress_rows(r.rows, address<std::int64_t>(row_ptr), address<std::uint32_t>(xy),
                                   address<float>(gain));
          },
          py::call_guard<py::gil_scoped_release>());
}
