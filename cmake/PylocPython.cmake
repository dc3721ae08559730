# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# The extension module pyloc_core._native, and its generated stubs.

find_package(Python COMPONENTS Interpreter Development.Module REQUIRED)
execute_process(COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir OUTPUT_VARIABLE pybind11_dir
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_package(pybind11 CONFIG REQUIRED HINTS "${pybind11_dir}")

file(GLOB binding_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/csrc/bindings/*.cpp")
pybind11_add_module(_native NO_EXTRAS ${binding_sources})
target_link_libraries(_native PRIVATE pyloc_native)
file(READ "${eigen_include}/Eigen/src/Core/util/Macros.h" eigen_macros)
string(REGEX MATCH "EIGEN_WORLD_VERSION ([0-9]+)" _ "${eigen_macros}")
set(eigen_version "${CMAKE_MATCH_1}")
string(REGEX MATCH "EIGEN_MAJOR_VERSION ([0-9]+)" _ "${eigen_macros}")
string(APPEND eigen_version ".${CMAKE_MATCH_1}")
string(REGEX MATCH "EIGEN_MINOR_VERSION ([0-9]+)" _ "${eigen_macros}")
string(APPEND eigen_version ".${CMAKE_MATCH_1}")
target_compile_definitions(_native PRIVATE PYLOC_VERSION="${PYLOC_VERSION}" PYLOC_SANITIZERS="${PYLOC_SANITIZE}"
                                           PYLOC_EIGEN_VERSION="${eigen_version}")
install(TARGETS _native LIBRARY DESTINATION pyloc_core)

# Stubs are generated from the module that was just built; a cross build has no way to import it.
if(SKBUILD AND NOT CMAKE_CROSSCOMPILING AND NOT PYLOC_SANITIZE)
  # sys.path rather than PYTHONPATH, which pip's isolated build environment needs for itself.
  add_custom_command(
    TARGET _native POST_BUILD
    COMMAND "${Python_EXECUTABLE}" -c
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from pybind11_stubgen import main; main()"
            "$<TARGET_FILE_DIR:_native>" _native -o "${CMAKE_CURRENT_BINARY_DIR}/stubs"
    VERBATIM)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/stubs/_native.pyi" DESTINATION pyloc_core)
endif()
