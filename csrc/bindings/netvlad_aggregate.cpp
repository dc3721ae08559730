// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/netvlad_aggregate.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// (features, logits, their dtypes, centroids, B, D, K, n, num_columns or 0, num_threads)
cpu::NetvladProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 11) throw std::invalid_argument("a NetVLAD problem takes 11 values");
  const auto pointer = [&](std::size_t i) { return t[i].cast<std::uintptr_t>(); };
  const auto count = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  return {address<const void>(pointer(0)),
          address<const void>(pointer(1)),
          t[2].cast<int>(),
          t[3].cast<int>(),
          address<const float>(pointer(4)),
          count(5),
          count(6),
          count(7),
          count(8),
          address<const std::int64_t>(pointer(9)),
          t[10].cast<int>()};
}

}  // namespace

PYLOC_BINDING(netvlad_aggregate, m) {
  namespace py = bindings::py;
  m.def("netvlad_aggregate", [](const py::tuple& problem, std::uintptr_t descriptor, std::uintptr_t residual,
                                std::uintptr_t log_sum) {
    const cpu::NetvladProblem in = problem_from(problem);
    const cpu::NetvladOutput out{address<float>(descriptor), address<float>(residual),
                                 address<float>(log_sum)};
    const py::gil_scoped_release released;
    return cpu::netvlad_aggregate_kernels().forward(in, out);
  });
  m.def("netvlad_aggregate_backward",
        [](const py::tuple& problem, std::uintptr_t residual, std::uintptr_t d_descriptor,
           std::uintptr_t d_features, std::uintptr_t d_logits, std::uintptr_t d_centroids) {
          const cpu::NetvladProblem in = problem_from(problem);
          const cpu::NetvladGradients gradients{address<const float>(residual),
                                                address<const float>(d_descriptor), address<void>(d_features),
                                                address<void>(d_logits), address<float>(d_centroids)};
          const py::gil_scoped_release released;
          return cpu::netvlad_aggregate_kernels().backward(in, gradients);
        });
}
