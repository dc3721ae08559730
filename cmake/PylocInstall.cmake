# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# The header-only C++ library: find_package(pyloc) gives the target pyloc::pyloc.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
add_library(pyloc INTERFACE)
target_include_directories(pyloc INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/csrc/include>
                                           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(pyloc INTERFACE cxx_std_17)
install(TARGETS pyloc EXPORT pylocTargets)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/csrc/include/pyloc" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT pylocTargets NAMESPACE pyloc:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pyloc)
file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/pylocConfig.cmake"
     "include(\"\${CMAKE_CURRENT_LIST_DIR}/pylocTargets.cmake\")\n")
string(REGEX MATCH "^[0-9]+\\.[0-9]+\\.[0-9]+" plain_version "${PYLOC_VERSION}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/pylocConfigVersion.cmake" VERSION "${plain_version}"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/pylocConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/pylocConfigVersion.cmake"
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/pyloc)
