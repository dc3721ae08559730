// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// A binding file registers its functions with PYLOC_BINDING; module.cpp finds them all. No list to edit.
#pragma once

#include <pybind11/pybind11.h>

namespace pyloc::bindings {

namespace py = pybind11;

using Register = void (*)(py::module_&);

// Types come before the functions that take them: signatures name only types that are known by then.
struct Registration {
  Registration(Register function, bool is_type);
};

}  // namespace pyloc::bindings

#define PYLOC_REGISTRATION(name, module, is_type)                                                 \
  static void register_##name(::pyloc::bindings::py::module_& module);                            \
  static const ::pyloc::bindings::Registration registration_of_##name(&register_##name, is_type); \
  static void register_##name(::pyloc::bindings::py::module_& module)
#define PYLOC_BINDING(name, module) PYLOC_REGISTRATION(name, module, false)
#define PYLOC_TYPE_BINDING(name, module) PYLOC_REGISTRATION(name, module, true)
