// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/nre_loss.h"

#include <stdexcept>

#include "bindings/args.h"

using namespace pyloc;

namespace {

// pyloc_core.ops.nre_loss: (descriptors, dtype, features, dtype, item_stride, plane_stride, cell_stride,
// targets, num_valid or 0, B, N, D, H, W, temperature, mask_outside, num_threads).
cpu::NreProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 17) throw std::invalid_argument("an NRE problem takes 17 values");
  const auto integer = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  const auto at = [&](std::size_t i) { return t[i].cast<std::uintptr_t>(); };
  return {bindings::address<const void>(at(0)),
          int(integer(1)),
          bindings::address<const void>(at(2)),
          int(integer(3)),
          integer(4),
          integer(5),
          integer(6),
          bindings::address<const double>(at(7)),
          bindings::address<const std::int64_t>(at(8)),
          integer(9),
          integer(10),
          integer(11),
          integer(12),
          integer(13),
          t[14].cast<double>(),
          t[15].cast<bool>(),
          int(integer(16))};
}

}  // namespace

PYLOC_BINDING(nre_loss, m) {
  m.def("nre_loss_forward",
        [](const bindings::py::tuple& problem, std::uintptr_t loss, std::uintptr_t statistics,
           std::uintptr_t counted, std::uintptr_t target_jacobian, std::uintptr_t descriptor_jacobian) {
          const cpu::NreProblem held = problem_from(problem);
          const bindings::py::gil_scoped_release released;
          return cpu::nre_loss_kernels().forward(
              held, {bindings::address<double>(loss), bindings::address<double>(statistics),
                     bindings::address<std::uint8_t>(counted), bindings::address<double>(target_jacobian),
                     bindings::address<void>(descriptor_jacobian)});
        });
  m.def("nre_loss_backward", [](const bindings::py::tuple& problem, std::uintptr_t loss_gradient,
                                std::uintptr_t statistics, std::uintptr_t feature_gradient,
                                std::int64_t item_stride, std::int64_t plane_stride,
                                std::int64_t cell_stride) {
    const cpu::NreProblem held = problem_from(problem);
    const bindings::py::gil_scoped_release released;
    return cpu::nre_loss_kernels().backward(
        held, {bindings::address<const double>(loss_gradient), bindings::address<const double>(statistics),
               bindings::address<void>(feature_gradient), item_stride, plane_stride, cell_stride});
  });
}
