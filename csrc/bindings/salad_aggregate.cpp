// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/salad_aggregate.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// (scores, features, token or 0, their dtypes, B, m, n, l, t, num_columns or 0, dustbin, T, num_threads)
cpu::SaladProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 15) throw std::invalid_argument("a SALAD problem takes 15 values");
  const auto array = [&](std::size_t i) { return address<const void>(t[i].cast<std::uintptr_t>()); };
  const auto count = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  cpu::SaladProblem p{};
  p.scores = array(0);
  p.features = array(1);
  p.token = array(2);
  p.score_dtype = t[3].cast<int>();
  p.feature_dtype = t[4].cast<int>();
  p.token_dtype = t[5].cast<int>();
  p.batch = count(6);
  p.clusters = count(7);
  p.patches = count(8);
  p.depth = count(9);
  p.token_depth = count(10);
  p.num_columns = address<const std::int64_t>(t[11].cast<std::uintptr_t>());
  p.dustbin = t[12].cast<double>();
  p.iterations = count(13);
  p.num_threads = t[14].cast<int>();
  return p;
}

}  // namespace

PYLOC_BINDING(salad_aggregate, m) {
  namespace py = bindings::py;
  m.def("salad_aggregate", [](const py::tuple& problem, std::uintptr_t descriptor, std::uintptr_t aggregate,
                              std::uintptr_t u, std::uintptr_t v) {
    const cpu::SaladProblem in = problem_from(problem);
    const cpu::SaladOutput out{address<float>(descriptor), address<float>(aggregate), address<float>(u),
                               address<float>(v)};
    const py::gil_scoped_release released;
    return cpu::salad_aggregate_kernels().forward(in, out);
  });
  m.def("salad_aggregate_backward",
        [](const py::tuple& problem, std::uintptr_t aggregate, std::uintptr_t d_descriptor,
           std::uintptr_t d_scores, std::uintptr_t d_features, std::uintptr_t d_token) {
          const cpu::SaladProblem in = problem_from(problem);
          const cpu::SaladGradients gradients{address<const float>(aggregate),
                                              address<const float>(d_descriptor), address<void>(d_scores),
                                              address<void>(d_features), address<float>(d_token)};
          const py::gil_scoped_release released;
          return cpu::salad_aggregate_kernels().backward(in, gradients);
        });
}
