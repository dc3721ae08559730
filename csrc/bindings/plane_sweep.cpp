// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/plane_sweep.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// pyloc_core._sweep_native._problem: (reference, sources, dtype, projection, depths, per_cell, num_views or
// 0, B, V, C, D, H, W, Hs, Ws, reduce, num_threads)
cpu::SweepProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 17) throw std::invalid_argument("a plane sweep takes 17 values");
  const auto pointer = [&](std::size_t i) { return t[i].cast<std::uintptr_t>(); };
  const auto count = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  return {address<const void>(pointer(0)),
          address<const void>(pointer(1)),
          t[2].cast<int>(),
          address<const float>(pointer(3)),
          address<const float>(pointer(4)),
          t[5].cast<bool>(),
          address<const std::int64_t>(pointer(6)),
          count(7),
          count(8),
          count(9),
          count(10),
          count(11),
          count(12),
          count(13),
          count(14),
          t[15].cast<int>(),
          t[16].cast<int>()};
}

}  // namespace

PYLOC_BINDING(plane_sweep, m) {
  namespace py = bindings::py;
  m.def("plane_sweep", [](const py::tuple& problem, std::uintptr_t volume) {
    const cpu::SweepProblem in = problem_from(problem);
    const py::gil_scoped_release released;
    return cpu::plane_sweep_kernels().forward(in, address<void>(volume));
  });
  m.def("plane_sweep_backward", [](const py::tuple& problem, std::uintptr_t d_volume,
                                   std::uintptr_t d_reference, std::uintptr_t d_sources) {
    const cpu::SweepProblem in = problem_from(problem);
    const py::gil_scoped_release released;
    return cpu::plane_sweep_kernels().backward(in, address<const float>(d_volume), address<void>(d_reference),
                                               address<void>(d_sources));
  });
  m.def("plane_sweep_mask", [](const py::tuple& problem, std::uintptr_t mask) {
    const cpu::SweepProblem in = problem_from(problem);
    const py::gil_scoped_release released;
    return cpu::plane_sweep_kernels().mask(in, address<bool>(mask));
  });
}
