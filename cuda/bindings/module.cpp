// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "bindings/binding.h"

namespace pyloc::bindings {
namespace {

std::vector<Register>& registrations() {
  static std::vector<Register> all;
  return all;
}

std::string version(int number) {  // 13020 is 13.2
  return number == 0 ? "none" : std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

py::dict build_info() {
  py::dict info;
  info["architectures"] = PYLOC_CUDA_ARCHITECTURES;
  info["runtime"] = version(CUDART_VERSION);
  int driver = 0;  // stays 0 without one
  if (cudaDriverGetVersion(&driver) != cudaSuccess) (void)cudaGetLastError();
  info["driver"] = version(driver);
  return info;
}

}  // namespace

Registration::Registration(Register function, bool is_type) {
  auto& all = registrations();
  all.insert(is_type ? all.begin() : all.end(), function);
}

}  // namespace pyloc::bindings

PYBIND11_MODULE(_native_cuda, m) {
  namespace pb = pyloc::bindings;
  m.doc() =
      "CUDA kernels of pyloc_core: device addresses, sizes and a stream in. Use the front doors in "
      "pyloc_core.";
  m.def("build_info", &pb::build_info);
  for (const auto function : pb::registrations()) function(m);
}
