// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/refine_pose.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "bindings/args.h"
#include "pyloc/gnc_batch.h"
#include "runtime/thread_pool.h"

using namespace pyloc;
using bindings::address;

namespace {

GncOptions options_from(const bindings::py::tuple& v) {
  return {v[0].cast<double>(), v[1].cast<double>(), v[2].cast<std::int64_t>(),
          v[3].cast<double>(), v[4].cast<double>(), v[5].cast<int>()};
}

// Problem b of a batch into its rows of the outputs. False: out of memory.
bool refine_one(const GncBatch& batch, std::int64_t b, int num_threads, double* gains) {
  const std::int64_t first = batch.problem_ptr[b];
  LossMapsView maps = batch.maps;
  maps.count = batch.problem_ptr[b + 1] - first;
  maps.row_ptr += first;
  if (maps.origins) maps.origins += 2 * first;
  if (maps.flat_gain) maps.flat_gain += first;
  const auto camera = batch.cameras ? load_camera(batch.cameras + 13 * b) : batch.camera;
  cpu::RefinePoseResult r{};
  if (!cpu::refine_pose_kernels().refine(maps, batch.points + 3 * first, camera, batch.start + 12 * b,
                                         batch.options, num_threads, gains + first, &r))
    return false;
  const int verdict = gnc_verdict(maps.count, r.consensus, isfinite_(r.covariance[0]));
  const bool success = verdict == kGncFound;
  std::copy_n(r.cam_from_world, 12, batch.cam_from_world + 12 * b);
  for (int k = 0; k < 36; ++k) batch.covariance[36 * b + k] = success ? r.covariance[k] : HUGE_VAL;
  const double scores[3] = {double(maps.count) * maps.log_cardinality - r.gain, r.gain, r.energy};
  std::copy_n(scores, 3, batch.scores + 3 * b);
  const std::int64_t counts[4] = {verdict * kGncReasons + r.reason, r.iterations, r.consensus.usable,
                                  r.consensus.consistent};
  std::copy_n(counts, 4, batch.counts + 4 * b);
  batch.success[b] = success ? 1 : 0;
  return true;
}

// Threads go to problems where there are enough of them, else into each problem; the bits are the same.
bool refine_all(const GncBatch& batch, int num_threads, double* gains) {
  const int threads = num_threads > 0 ? num_threads : runtime::default_num_threads();
  const bool across = batch.problems >= threads;
  std::atomic<bool> fits{true};
  runtime::parallel_for(batch.problems, across ? threads : 1, [&](std::int64_t b) {
    if (!refine_one(batch, b, across ? 1 : threads, gains)) fits = false;
  });
  return fits;
}

}  // namespace

PYLOC_BINDING(refine_pose, m) {
  namespace py = bindings::py;
  m.def("refine_pose", [](const py::tuple& maps_args, std::uintptr_t points, const py::tuple& camera_args,
                          std::uintptr_t start, const py::tuple& options_args, int num_threads,
                          std::uintptr_t pose, std::uintptr_t covariance, std::uintptr_t gains) {
    const auto maps = bindings::loss_maps_from(maps_args);
    const auto camera = bindings::camera_from(camera_args);
    const GncOptions options = options_from(options_args);
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
  // outputs: cam_from_world, scores, covariance, counts, success (pyloc/gnc_batch.h), gains (N).
  m.def("refine_pose_batch",
        [](const py::tuple& maps, std::uintptr_t points, std::uintptr_t cameras, bool one_camera,
           std::uintptr_t problem_ptr, std::int64_t problems, std::uintptr_t start, const py::tuple& options,
           int num_threads, const py::tuple& outputs) {
          GncBatch batch{};
          batch.maps = bindings::loss_maps_from(maps);
          batch.problems = problems;
          batch.problem_ptr = address<const std::int64_t>(problem_ptr);
          batch.points = address<const double>(points);
          if (one_camera)
            batch.camera = load_camera(address<const double>(cameras));
          else
            batch.cameras = address<const double>(cameras);
          batch.start = address<const double>(start);
          batch.options = options_from(options);
          const auto output = [&](std::size_t i) { return outputs[i].cast<std::uintptr_t>(); };
          batch.cam_from_world = address<double>(output(0));
          batch.scores = address<double>(output(1));
          batch.covariance = address<double>(output(2));
          batch.counts = address<std::int32_t>(output(3));
          batch.success = address<std::uint8_t>(output(4));
          double* gains = address<double>(output(5));
          bool fits = false;
          {
            const py::gil_scoped_release release;
            fits = refine_all(batch, num_threads, gains);
          }
          if (!fits) throw std::bad_alloc();
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
