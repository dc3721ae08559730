// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// A binding file registers its functions with PYLOC_BINDING; module.cpp finds them all. No list to edit.
#pragma once

#include <pybind11/pybind11.h>

namespace pyloc::bindings {

namespace py = pybind11;

using Register = void (*)(py::module_&);

struct Registration {
  Registration(Register function);
};

}  // namespace pyloc::bindings

#define PYLOC_BINDING(name, module)                                                      \
  static void register_##name(::pyloc::bindings::py::module_& module);                   \
  static const ::pyloc::bindings::Registration registration_of_##name(&register_##name); \
  static void register_##name(::pyloc::bindings::py::module_& module)
