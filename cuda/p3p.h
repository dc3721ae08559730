// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// P3P (pyloc/p3p.h), one thread per problem.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pyloc::cuda {

// bearings, points (B, 3, 3) -> cam_from_world (B, 4, 3, 4), valid (B, 4) bytes 0 or 1; all on the device.
template <class T>
cudaError_t p3p(const T* bearings, const T* points, std::int64_t count, T* cam_from_world,
                std::uint8_t* valid, cudaStream_t stream);

}  // namespace pyloc::cuda
