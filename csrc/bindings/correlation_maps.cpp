// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/correlation_maps.h"

#include "bindings/levels.h"

using namespace pyloc;

PYLOC_BINDING(correlation_maps, m) {
  m.def("correlation_maps",
        [](const bindings::py::tuple& levels, std::int64_t count, std::int64_t height, std::int64_t width,
           double temperature, bool softmax, std::uintptr_t maps, int num_threads) {
          const bindings::LevelsHeld held = bindings::levels_from(levels);
          const cpu::CorrelationProblem problem{held.levels, held.count, count, height, width, num_threads};
          bindings::py::gil_scoped_release released;
          return cpu::correlation_maps_kernels().correlation_maps(problem, temperature, softmax,
                                                                  bindings::address<float>(maps));
        });
}
