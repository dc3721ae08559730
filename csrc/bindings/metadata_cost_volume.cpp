// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/metadata_cost_volume.h"

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

namespace {

// _metadata.Native.arguments: reference, sources, their dtypes, the six weights, projection, rays, centres,
// pose_values, depths, depth_limits, num_views or 0, B, V, C, D, H, W, Hs, Ws, h1, h2, whether depths are per
// cell, num_threads.
cpu::MetadataProblem problem_from(const bindings::py::tuple& t) {
  if (t.size() != 29) throw std::invalid_argument("a metadata cost volume takes 29 values");
  std::size_t at = 0;
  const auto floats = [&] { return address<const float>(t[at++].cast<std::uintptr_t>()); };
  const auto count = [&] { return t[at++].cast<std::int64_t>(); };
  cpu::MetadataProblem p{};
  p.reference = floats();
  p.sources = floats();
  p.reference_dtype = int(count());
  p.source_dtype = int(count());
  for (const float** each : {&p.w1, &p.b1, &p.w2, &p.b2, &p.w3, &p.b3, &p.projection, &p.rays, &p.centres,
                             &p.pose_values, &p.depths, &p.depth_limits})
    *each = floats();
  p.num_views = address<const std::int64_t>(t[at++].cast<std::uintptr_t>());
  for (std::int64_t* each : {&p.batch, &p.views, &p.channels, &p.planes, &p.height, &p.width,
                             &p.source_height, &p.source_width, &p.hidden1, &p.hidden2})
    *each = count();
  p.depth_per_cell = count() != 0;
  p.num_threads = int(count());
  return p;
}

}  // namespace

PYLOC_BINDING(metadata_cost_volume, m) {
  namespace py = bindings::py;
  m.def("metadata_cost_volume", [](const py::tuple& problem, std::uintptr_t volume, std::uintptr_t log_sum) {
    const cpu::MetadataProblem in = problem_from(problem);
    const py::gil_scoped_release released;
    return cpu::metadata_cost_volume_kernels().forward(in, address<float>(volume), address<float>(log_sum));
  });
  m.def("metadata_cost_volume_backward",
        [](const py::tuple& problem, std::uintptr_t volume, std::uintptr_t log_sum, std::uintptr_t d_volume,
           const py::tuple& found) {  // gradients of reference, sources and the six weights
          const cpu::MetadataProblem in = problem_from(problem);
          if (found.size() != 8) throw std::invalid_argument("a metadata cost volume has 8 gradients");
          const auto at = [&](std::size_t i) { return address<float>(found[i].cast<std::uintptr_t>()); };
          const cpu::MetadataGradients gradients{
              address<const float>(d_volume), at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)};
          const py::gil_scoped_release released;
          return cpu::metadata_cost_volume_kernels().backward(in, address<const float>(volume),
                                                              address<const float>(log_sum), gradients);
        });
}
