// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/binding.h"
#include "runtime/isa.h"
#include "runtime/thread_pool.h"

namespace pyloc::bindings {
namespace {

std::vector<Register>& registrations() {
  static std::vector<Register> all;
  return all;
}

py::dict build_info() {
  py::dict info;
  info["version"] = PYLOC_VERSION;
  info["compiler"] = __VERSION__;
#if defined(NDEBUG)
  info["build_type"] = "release";
#else
  info["build_type"] = "debug";
#endif
  info["isa"] = runtime::isa_name(runtime::active_isa());
  info["isa_best"] = runtime::isa_name(runtime::best_isa());
  info["avx512_bf16"] = runtime::has_avx512_bf16();
  info["amx_bf16"] = runtime::has_amx_bf16();
  info["num_threads"] = runtime::default_num_threads();
  info["sanitizers"] = PYLOC_SANITIZERS;
  info["eigen"] = PYLOC_EIGEN_VERSION;
  return info;
}

void set_isa(const std::string& name) {
  runtime::Isa isa;
  if (!runtime::isa_from_name(name.c_str(), isa))
    throw py::value_error("isa must be 'baseline', 'avx2' or 'avx512', got '" + name + "'");
  if (!runtime::set_isa(isa))
    throw py::value_error("this processor or build cannot run '" + name + "'; best is '" +
                          runtime::isa_name(runtime::best_isa()) + "'");
}

}  // namespace

Registration::Registration(Register function, bool is_type) {
  auto& all = registrations();
  all.insert(is_type ? all.begin() : all.end(), function);
}

}  // namespace pyloc::bindings

PYBIND11_MODULE(_native, m) {
  namespace pb = pyloc::bindings;
  m.doc() =
      "Native kernels of pyloc_core: addresses and sizes in, status out. Use the front doors in pyloc_core.";
  m.def("build_info", &pb::build_info);
  m.def("set_isa", &pb::set_isa, pybind11::arg("name"));
  m.def("num_threads", &pyloc::runtime::default_num_threads);
  m.def("set_num_threads", &pyloc::runtime::set_default_num_threads, pybind11::arg("count"));
  for (const auto function : pb::registrations()) function(m);
}
