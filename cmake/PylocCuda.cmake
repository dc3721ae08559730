# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# The CUDA tier: kernels of cuda/*.cu in the extension module pyloc_core._native_cuda, which a process
# without a driver never needs. PYLOC_CUDA:
#   auto  built when this machine has an NVIDIA GPU and a toolkit that works, for that GPU alone;
#   on    built for every listed architecture, and an error where that is impossible;
#   off   not built. The GPU then runs the Triton tier.
# Target pyloc_cuda builds all there is, the proof that shared headers are device code included; no GPU
# is needed for that.

if(PYLOC_CUDA STREQUAL "off")
  return()
endif()
if(NOT PYLOC_CUDA MATCHES "^(on|auto)$")
  message(FATAL_ERROR "PYLOC_CUDA must be auto, on or off, got '${PYLOC_CUDA}'")
endif()

# Compute capability of the first GPU, as 90; empty where nvidia-smi is too old to say.
function(pyloc_native_architecture result)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE found
                  ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REGEX MATCH "^[0-9]+\\.[0-9]" found "${found}")
  string(REPLACE "." "" found "${found}")
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# What keeps `auto` from building, or an empty string. A toolkit that cannot compile for this GPU is found
# out here, in a program of its own: enable_language() and the kernels would end the whole build.
function(pyloc_cuda_obstacle result)
  set(${result} "" PARENT_SCOPE)
  execute_process(COMMAND nvidia-smi -L RESULT_VARIABLE status OUTPUT_VARIABLE gpus ERROR_QUIET)
  if(NOT status EQUAL 0 OR NOT gpus MATCHES "GPU 0")
    set(${result} "no NVIDIA GPU here" PARENT_SCOPE)
    return()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(${result} "no CUDA compiler" PARENT_SCOPE)
    return()
  endif()
  pyloc_native_architecture(native)
  set(architecture)
  if(native)
    set(architecture "-arch=sm_${native}")
  endif()
  set(probe "${CMAKE_CURRENT_BINARY_DIR}/cuda_probe")
  file(WRITE "${probe}.cu"
       "#include <cooperative_groups.h>\n#include <cmath>\n#include <pyloc/vec.h>\n"
       "static_assert(CUDART_VERSION >= 11080, \"CUDA 11.8 or newer is needed\");\n"
       "__global__ void probe(float* x) { *x = pyloc::sqrt_(*x); }\n"
       "int main() { probe<<<1, 1>>>(nullptr); return cudaGetLastError() == cudaSuccess; }\n")
  execute_process(
    COMMAND "${CMAKE_CUDA_COMPILER}" -std=c++17 ${architecture} "-I${PROJECT_SOURCE_DIR}/csrc/include" "${probe}.cu"
            -o "${probe}"
    RESULT_VARIABLE status OUTPUT_VARIABLE log ERROR_VARIABLE log)
  if(NOT status EQUAL 0)
    set(${result} "${CMAKE_CUDA_COMPILER} cannot compile for this GPU:\n${log}" PARENT_SCOPE)
  endif()
endfunction()

if(PYLOC_CUDA STREQUAL "auto")
  pyloc_cuda_obstacle(obstacle)
  if(obstacle)
    message(STATUS "CUDA kernels are not built: ${obstacle}")
    return()
  endif()
  pyloc_native_architecture(native)
  if(native AND NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${native})
  endif()
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "PYLOC_CUDA=on but no CUDA compiler was found")
  endif()
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 100-real 120)  # the newest with PTX
endif()
enable_language(CUDA)
# A file's architectures side by side: the slowest file would otherwise end the build alone.
set(PYLOC_CUDA_THREADS 2 CACHE STRING "Architectures that one nvcc compiles at a time")

add_library(pyloc_cuda_options INTERFACE)
target_include_directories(pyloc_cuda_options INTERFACE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/csrc"
                                                        "${PROJECT_SOURCE_DIR}/csrc/include")
target_compile_options(pyloc_cuda_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--threads=${PYLOC_CUDA_THREADS} -Xcompiler=-Wall,-Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${PYLOC_WERROR}>>:-Werror=all-warnings>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra $<$<BOOL:${PYLOC_WERROR}>:-Werror>>)

function(pyloc_cuda_objects target)
  add_library(${target} OBJECT EXCLUDE_FROM_ALL ${ARGN})
  target_link_libraries(${target} PRIVATE pyloc_cuda_options)
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
                                             CUDA_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
endfunction()

file(GLOB cuda_kernels CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cuda/*.cu")
file(GLOB cuda_bindings CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cuda/bindings/*.cpp")
file(GLOB device_tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/cpp/device_*.cu")
pyloc_cuda_objects(pyloc_cuda_kernels ${cuda_kernels})
pyloc_cuda_objects(pyloc_cuda_headers ${device_tests})
add_custom_target(pyloc_cuda DEPENDS pyloc_cuda_kernels pyloc_cuda_headers)

if(PYLOC_PYTHON)
  find_package(CUDAToolkit REQUIRED)
  pybind11_add_module(_native_cuda NO_EXTRAS ${cuda_bindings} $<TARGET_OBJECTS:pyloc_cuda_kernels>)
  # The static runtime: no CUDA library beside the driver's has to be found when the module is imported.
  target_link_libraries(_native_cuda PRIVATE pyloc_cuda_options CUDA::cudart_static)
  string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
  target_compile_definitions(_native_cuda PRIVATE PYLOC_CUDA_ARCHITECTURES="${architectures}")
  set_target_properties(_native_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  install(TARGETS _native_cuda LIBRARY DESTINATION pyloc_core)
  add_dependencies(pyloc_cuda _native_cuda)
endif()
