// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// From the tuples of pyloc_core._levels to CorrelationProblem.
#pragma once

#include <stdexcept>

#include "bindings/args.h"
#include "cpu/correlation_problem.h"

namespace pyloc::bindings {

constexpr std::size_t kMaxLevels = 16;

struct LevelsHeld {
  cpu::CorrelationLevel levels[kMaxLevels];
  int count;
};

// Each (descriptors, dtype, features, dtype, plane_stride, cell_stride, D, H, W).
inline LevelsHeld levels_from(const py::tuple& tuples) {
  if (tuples.empty() || tuples.size() > kMaxLevels) throw std::invalid_argument("1 to 16 levels");
  LevelsHeld held{};
  held.count = static_cast<int>(tuples.size());
  for (std::size_t i = 0; i < tuples.size(); ++i) {
    const py::tuple t = tuples[i];
    if (t.size() != 9) throw std::invalid_argument("a level takes 9 values");
    cpu::CorrelationLevel& level = held.levels[i];
    level.descriptors = address<const void>(t[0].cast<std::uintptr_t>());
    level.descriptor_dtype = t[1].cast<int>();
    level.features = address<const void>(t[2].cast<std::uintptr_t>());
    level.feature_dtype = t[3].cast<int>();
    level.plane_stride = t[4].cast<std::int64_t>();
    level.cell_stride = t[5].cast<std::int64_t>();
    level.depth = t[6].cast<std::int64_t>();
    level.height = t[7].cast<std::int64_t>();
    level.width = t[8].cast<std::int64_t>();
  }
  return held;
}

}  // namespace pyloc::bindings
