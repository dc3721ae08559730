// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Sample consensus over loss maps as Python hands it over: on a device, and in the tests of its phases.
#pragma once

#include "bindings/args.h"
#include "pyloc/msac_problem.h"

namespace pyloc::bindings {

// options: iterations, confidence, top_fraction, seed.
inline MsacInput msac_input(const py::tuple& maps, std::uintptr_t points, std::uintptr_t cameras,
                            std::uintptr_t problem_ptr, std::int64_t num_problems, std::uintptr_t initial,
                            std::int64_t num_initial, const py::tuple& options) {
  MsacInput in{};
  in.maps = loss_maps_from(maps);
  in.points = address<const double>(points);
  in.cameras = address<const double>(cameras);
  in.problem_ptr = address<const std::int64_t>(problem_ptr);
  in.initial = address<const double>(initial);
  in.num_problems = num_problems;
  in.num_initial = num_initial;
  in.iterations = options[0].cast<std::int64_t>();
  in.confidence = options[1].cast<double>();
  in.top_fraction = options[2].cast<double>();
  in.seed = options[3].cast<std::uint64_t>();
  return in;
}

inline MsacOutput msac_output(const py::tuple& outputs) {
  std::uintptr_t out[8];
  for (std::size_t i = 0; i < 8; ++i) out[i] = outputs[i].cast<std::uintptr_t>();
  return {address<double>(out[0]),       address<std::int32_t>(out[1]), address<double>(out[2]),
          address<double>(out[3]),       address<std::int32_t>(out[4]), address<std::int32_t>(out[5]),
          address<std::int32_t>(out[6]), address<double>(out[7])};
}

}  // namespace pyloc::bindings
