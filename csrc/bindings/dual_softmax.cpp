// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/dual_softmax.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// (scores, dtype, B, m, n, num_rows or 0, num_columns or 0, temperature, num_threads)
cpu::DualSoftmaxProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 9) throw std::invalid_argument("a dual softmax takes 9 values");
  const auto pointer = [&](std::size_t i) { return t[i].cast<std::uintptr_t>(); };
  const auto count = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  return {address<const void>(pointer(0)),
          t[1].cast<int>(),
          count(2),
          count(3),
          count(4),
          address<const std::int64_t>(pointer(5)),
          address<const std::int64_t>(pointer(6)),
          t[7].cast<double>(),
          t[8].cast<int>()};
}

}  // namespace

PYLOC_BINDING(dual_softmax, m) {
  namespace py = bindings::py;
  m.def("dual_softmax", [](const py::tuple& problem, std::uintptr_t log_assignment,
                           std::uintptr_t row_log_sum, std::uintptr_t column_log_sum) {
    const cpu::DualSoftmaxProblem in = problem_from(problem);
    const cpu::DualSoftmaxOutput out{address<void>(log_assignment), address<float>(row_log_sum),
                                     address<float>(column_log_sum)};
    const py::gil_scoped_release released;
    return cpu::dual_softmax_kernels().forward(in, out);
  });
  m.def("dual_softmax_backward",
        [](const py::tuple& problem, std::uintptr_t row_log_sum, std::uintptr_t column_log_sum,
           std::uintptr_t slope, std::uintptr_t d_scores) {
          const cpu::DualSoftmaxProblem in = problem_from(problem);
          const cpu::DualSoftmaxGradients gradients{address<const float>(row_log_sum),
                                                    address<const float>(column_log_sum),
                                                    address<const float>(slope), address<float>(d_scores)};
          const py::gil_scoped_release released;
          return cpu::dual_softmax_kernels().backward(in, gradients);
        });
}
