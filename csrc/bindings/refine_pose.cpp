// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/refine_pose.h"

#include <algorithm>
#include <new>

#include "bindings/args.h"

using namespace pyloc;
using bindings::address;

PYLOC_BINDING(refine_pose, m) {
  namespace py = bindings::py;
  m.def("refine_pose", [](const py::tuple& maps_args, std::uintptr_t points, const py::tuple& camera_args,
                          std::uintptr_t start, const py::tuple& options_args, int num_threads,
                          std::uintptr_t pose, std::uintptr_t covariance, std::uintptr_t gains) {
    const auto maps = bindings::loss_maps_from(maps_args);
    const auto camera = bindings::camera_from(camera_args);
    const GncOptions options{options_args[0].cast<double>(),       options_args[1].cast<double>(),
                             options_args[2].cast<std::int64_t>(), options_args[3].cast<double>(),
                             options_args[4].cast<double>(),       options_args[5].cast<int>()};
    cpu::RefinePoseResult result{};
    bool fits = false;
    {
      const py::gil_scoped_release release;
      fits = cpu::refine_pose_kernels().refine(maps, address<const double>(points), camera,
                                               address<const double>(start), options, num_threads,
                                               address<double>(gains), &result);
    }
    if (!fits) throw std::bad_alloc();
    std::copy_n(result.cam_from_world, 12, address<double>(pose));
    std::copy_n(result.covariance, 36, address<double>(covariance));
    const auto& c = result.consensus;
    return py::make_tuple(result.gain, result.energy, result.dispersion, result.iterations, result.passes,
                          result.reason, c.usable, c.consistent, c.chance, c.log_false_alarms, c.success);
  });
  m.def("gnc_assemble",
        [](const py::tuple& maps_args, std::uintptr_t points, const py::tuple& camera_args,
           std::uintptr_t pose, double sigma, int num_threads, std::int64_t repeats, std::uintptr_t sums) {
          const auto maps = bindings::loss_maps_from(maps_args);
          const auto camera = bindings::camera_from(camera_args);
          bool fits = false;
          {
            const py::gil_scoped_release release;
            fits = cpu::refine_pose_kernels().assemble(maps, address<const double>(points), camera,
                                                       address<const double>(pose), sigma, num_threads,
                                                       repeats, address<double>(sums));
          }
          if (!fits) throw std::bad_alloc();
        });
}
