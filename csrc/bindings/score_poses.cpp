// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/score_poses.h"

#include <new>

#include "bindings/args.h"
#include "bindings/binding.h"

namespace pyloc::bindings {
namespace {

void score_poses(const py::tuple& maps, std::uintptr_t points, const py::tuple& camera, std::uintptr_t poses,
                 std::int64_t num_poses, int num_threads, std::uintptr_t gain) {
  const cpu::ScorePosesProblem problem{loss_maps_from(maps), address<const double>(points),
                                       camera_from(camera), address<const double>(poses), num_poses};
  bool done;
  {
    py::gil_scoped_release release;
    done = cpu::score_poses_kernels().run(problem, num_threads, address<float>(gain));
  }
  if (!done) throw std::bad_alloc();
}

}  // namespace
}  // namespace pyloc::bindings

PYLOC_BINDING(score_poses, m) { m.def("score_poses", &pyloc::bindings::score_poses); }
