// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The result of a consensus operator on its way to Python.
#pragma once

#include "bindings/binding.h"

namespace pyloc::bindings {

// What pyloc_core.sampling.estimate_from reads.
template <class Result>
inline py::dict consensus_dict(const Result& result) {
  py::dict out;
  py::list pose, seconds;
  for (double value : result.cam_from_world) pose.append(value);
  for (double value : result.seconds) seconds.append(value);
  out["cam_from_world"] = pose;
  out["seconds"] = seconds;
  out["status"] = result.status;
  out["cost"] = result.cost;
  out["gain"] = result.gain;
  out["hypothesis"] = result.hypothesis;
  out["iterations"] = result.iterations;
  out["scored"] = result.scored;
  out["num_usable"] = result.num_usable;
  out["num_consistent"] = result.num_consistent;
  return out;
}

}  // namespace pyloc::bindings
