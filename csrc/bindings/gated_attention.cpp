// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/gated_attention.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// (queries, keys, values, dtype, B, heads, N, M, d, dv, num_valid or 0, scale, num_threads)
cpu::AttentionProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 13) throw std::invalid_argument("an attention problem takes 13 values");
  const auto pointer = [&](std::size_t i) { return t[i].cast<std::uintptr_t>(); };
  const auto count = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  return {address<const void>(pointer(0)),
          address<const void>(pointer(1)),
          address<const void>(pointer(2)),
          t[3].cast<int>(),
          count(4),
          count(5),
          count(6),
          count(7),
          count(8),
          count(9),
          address<const std::int64_t>(pointer(10)),
          t[11].cast<double>(),
          t[12].cast<int>()};
}

// (out, peak, log_sum, best)
cpu::AttentionOutput output_from(const bindings::py::tuple& t) {
  if (t.size() != 4) throw std::invalid_argument("an attention output takes 4 values");
  const auto floats = [&](std::size_t i) { return address<float>(t[i].cast<std::uintptr_t>()); };
  return {floats(0), floats(1), floats(2), address<std::int32_t>(t[3].cast<std::uintptr_t>())};
}

}  // namespace

PYLOC_BINDING(gated_attention, m) {
  namespace py = bindings::py;
  m.def("gated_attention", [](const py::tuple& problem, const py::tuple& output) {
    const cpu::AttentionProblem in = problem_from(problem);
    const cpu::AttentionOutput out = output_from(output);
    const py::gil_scoped_release released;
    return cpu::gated_attention_kernels().forward(in, out);
  });
  m.def("gated_attention_backward",
        [](const py::tuple& problem, const py::tuple& output, std::uintptr_t d_out, std::uintptr_t d_queries,
           std::uintptr_t d_keys, std::uintptr_t d_values) {
          const cpu::AttentionProblem in = problem_from(problem);
          const cpu::AttentionGradients gradients{output_from(output), address<const float>(d_out),
                                                  address<float>(d_queries), address<float>(d_keys),
                                                  address<float>(d_values)};
          const py::gil_scoped_release released;
          return cpu::gated_attention_kernels().backward(in, gradients);
        });
}
