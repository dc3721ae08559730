// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/match.h"

#include "bindings/levels.h"

using namespace pyloc;

PYLOC_BINDING(match, m) {
  m.def("match", [](const bindings::py::tuple& levels, std::int64_t count, std::int64_t height,
                    std::int64_t width, double temperature, std::int64_t rank, bool subcell,
                    std::uintptr_t xy, std::uintptr_t log_probability, std::uintptr_t quantile_ratio,
                    std::uintptr_t entropy, int num_threads) {
    const bindings::LevelsHeld held = bindings::levels_from(levels);
    const cpu::CorrelationProblem problem{held.levels, held.count, count, height, width, num_threads};
    const cpu::MatchOutput output{bindings::address<double>(xy), bindings::address<float>(log_probability),
                                  bindings::address<float>(quantile_ratio),
                                  bindings::address<float>(entropy)};
    bindings::py::gil_scoped_release released;
    return cpu::match_kernels().match(problem, {temperature, rank, subcell}, output);
  });
}
