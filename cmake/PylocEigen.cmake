# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# Eigen, header-only: from the system or conda, or from the wheel cmeel-eigen, which keeps its CMake
# package inside site-packages of the Python that builds.

if(NOT TARGET Eigen3::Eigen)
  find_package(Python COMPONENTS Interpreter QUIET)
  if(Python_Interpreter_FOUND)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
              "import importlib.util as u; s = u.find_spec('cmeel'); print(list(s.submodule_search_locations)[0] if s else '')"
      OUTPUT_VARIABLE cmeel_path OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(cmeel_path)
      get_filename_component(cmeel_path "${cmeel_path}/../cmeel.prefix" ABSOLUTE)
    endif()
  endif()
  find_package(Eigen3 3.4 CONFIG QUIET HINTS "${cmeel_path}")
  if(NOT TARGET Eigen3::Eigen)
    find_package(Eigen3 3.4 REQUIRED NO_MODULE HINTS "${cmeel_path}")
  endif()
endif()
get_target_property(eigen_include Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
add_library(pyloc_eigen INTERFACE)
target_include_directories(pyloc_eigen SYSTEM INTERFACE ${eigen_include})
