// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/sinkhorn.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// (scores, dtype, B, m, n, dustbin_sides, dustbin or 0, log_row_mass, its stride, log_column_mass, its
//  stride, num_rows or 0, num_columns or 0, iterations, tolerance, num_threads)
cpu::SinkhornProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 16) throw std::invalid_argument("a Sinkhorn problem takes 16 values");
  const auto pointer = [&](std::size_t i) { return t[i].cast<std::uintptr_t>(); };
  const auto count = [&](std::size_t i) { return t[i].cast<std::int64_t>(); };
  cpu::SinkhornProblem p{};
  p.scores = address<const void>(pointer(0));
  p.dtype = t[1].cast<int>();
  p.batch = count(2);
  p.rows = count(3);
  p.columns = count(4);
  p.dustbin_sides = t[5].cast<int>();
  p.dustbin = address<const float>(pointer(6));
  p.log_row_mass = address<const float>(pointer(7));
  p.row_mass_stride = count(8);
  p.log_column_mass = address<const float>(pointer(9));
  p.column_mass_stride = count(10);
  p.num_rows = address<const std::int64_t>(pointer(11));
  p.num_columns = address<const std::int64_t>(pointer(12));
  p.iterations = count(13);
  p.tolerance = t[14].cast<double>();
  p.num_threads = t[15].cast<int>();
  return p;
}

}  // namespace

PYLOC_BINDING(sinkhorn, m) {
  namespace py = bindings::py;
  m.def("sinkhorn", [](const py::tuple& problem, std::int64_t kept, std::uintptr_t log_assignment,
                       std::uintptr_t u, std::uintptr_t v, std::uintptr_t count) {
    const cpu::SinkhornProblem in = problem_from(problem);
    const cpu::SinkhornOutput out{kept, address<void>(log_assignment), address<float>(u), address<float>(v),
                                  address<std::int32_t>(count)};
    const py::gil_scoped_release released;
    return cpu::sinkhorn_kernels().forward(in, out);
  });
  m.def(
      "sinkhorn_backward",
      [](const py::tuple& problem, std::int64_t kept, std::uintptr_t log_assignment, std::uintptr_t u,
         std::uintptr_t v, std::uintptr_t count, std::uintptr_t slope, bool implicit, std::uintptr_t d_scores,
         std::uintptr_t d_log_row_mass, std::uintptr_t d_log_column_mass, std::uintptr_t d_dustbin) {
        const cpu::SinkhornProblem in = problem_from(problem);
        const cpu::SinkhornOutput out{kept, address<void>(log_assignment), address<float>(u),
                                      address<float>(v), address<std::int32_t>(count)};
        const cpu::SinkhornGradients gradients{out,
                                               address<const float>(slope),
                                               implicit,
                                               address<float>(d_scores),
                                               address<float>(d_log_row_mass),
                                               address<float>(d_log_column_mass),
                                               address<float>(d_dustbin)};
        const py::gil_scoped_release released;
        return cpu::sinkhorn_kernels().backward(in, gradients);
      });
}
