# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# csrc/cpu/*.cpp are compiled once per instruction set; csrc/runtime picks one when the process starts.

find_package(Threads REQUIRED)
set(csrc "${PROJECT_SOURCE_DIR}/csrc")
file(GLOB cpu_sources CONFIGURE_DEPENDS "${csrc}/cpu/*.cpp")
file(GLOB runtime_sources CONFIGURE_DEPENDS "${csrc}/runtime/*.cpp")

add_library(pyloc_options INTERFACE)
target_include_directories(pyloc_options INTERFACE "${csrc}" "${csrc}/include")
target_link_libraries(pyloc_options INTERFACE Threads::Threads)
target_compile_options(pyloc_options INTERFACE -Wall -Wextra $<$<BOOL:${PYLOC_WERROR}>:-Werror>)
# Vector types wider than the baseline's registers never cross a function that is not inlined.
target_compile_options(pyloc_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-psabi>)
# GCC 12 takes the deliberately undefined operands inside its own AVX-512 intrinsics for mistakes.
target_compile_options(pyloc_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
if(PYLOC_SANITIZE)
  target_compile_options(pyloc_options INTERFACE -fsanitize=${PYLOC_SANITIZE} -fno-omit-frame-pointer -g
                                                 -fno-sanitize-recover=all)
  target_link_options(pyloc_options INTERFACE -fsanitize=${PYLOC_SANITIZE})
endif()
# Contraction to fused multiply-add inside an expression; no other reordering of floating point.
set(kernel_flags -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math)
if(PYLOC_SANITIZE)  # GCC 12 takes minutes per file to track variables through instrumented, inlined kernels
  list(APPEND kernel_flags -O1 -g1 -fno-var-tracking)
endif()

set(isas baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(isas baseline avx2 avx512)
  target_compile_definitions(pyloc_options INTERFACE PYLOC_X86_VARIANTS)
  set(flags_avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(flags_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mbmi2
                   -mprefer-vector-width=512)
endif()

if(PYLOC_SANITIZE)
  # Everything in P3P is inlined into one function; a check at each of its references to packs on the
  # stack takes GCC more than ten minutes. Memory and arithmetic stay checked.
  set_source_files_properties("${csrc}/cpu/p3p.cpp" PROPERTIES COMPILE_OPTIONS
                              "-fno-sanitize=null;-fno-sanitize=alignment;-fno-sanitize=object-size")
endif()

set(kernel_objects)
foreach(isa IN LISTS isas)
  if(cpu_sources)
    add_library(pyloc_cpu_${isa} OBJECT ${cpu_sources})
    target_link_libraries(pyloc_cpu_${isa} PRIVATE pyloc_options)
    target_compile_definitions(pyloc_cpu_${isa} PRIVATE PYLOC_ISA=${isa})
    target_compile_options(pyloc_cpu_${isa} PRIVATE ${kernel_flags} ${flags_${isa}})
    list(APPEND kernel_objects $<TARGET_OBJECTS:pyloc_cpu_${isa}>)
  endif()
endforeach()

add_library(pyloc_native STATIC ${runtime_sources} ${kernel_objects})
target_link_libraries(pyloc_native PUBLIC pyloc_options PRIVATE pyloc_eigen)
