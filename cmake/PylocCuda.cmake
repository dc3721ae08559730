# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# The CUDA sources, and the proof that the shared headers compile for the device. Compile-only where no
# GPU is: target pyloc_cuda builds objects for every listed architecture.

if(PYLOC_CUDA STREQUAL "off")
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(PYLOC_CUDA STREQUAL "on")
    message(FATAL_ERROR "PYLOC_CUDA=on but no CUDA compiler was found")
  endif()
  return()
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 100-real 120)  # the newest with PTX
endif()
enable_language(CUDA)
file(GLOB cuda_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cuda/*.cu" "${PROJECT_SOURCE_DIR}/tests/cpp/device_*.cu")
if(cuda_sources)
  add_library(pyloc_cuda OBJECT EXCLUDE_FROM_ALL ${cuda_sources})
  target_include_directories(pyloc_cuda PRIVATE "${PROJECT_SOURCE_DIR}/csrc" "${PROJECT_SOURCE_DIR}/csrc/include")
  set_target_properties(pyloc_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
endif()
