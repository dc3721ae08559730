// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/loss_maps.h"

#include "bindings/levels.h"
#include "bindings/sparse_rows.h"

using namespace pyloc;

PYLOC_BINDING(loss_maps, m) {
  m.def("loss_maps", [](const bindings::py::tuple& levels, std::int64_t count, std::int64_t height,
                        std::int64_t width, double temperature, double log_cardinality, double epsilon,
                        std::int64_t limit, int num_threads, bindings::OwnedRows& out) {
    const bindings::LevelsHeld held = bindings::levels_from(levels);
    const cpu::CorrelationProblem problem{held.levels, held.count, count, height, width, num_threads};
    const bindings::py::gil_scoped_release released;
    return cpu::loss_maps_kernels().loss_maps(problem, {temperature, log_cardinality, epsilon, limit},
                                              out.rows);
  });
}
