// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// MSAC over loss maps for a batch of problems (pyloc/msac_problem.h), end to end on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "pyloc/msac_problem.h"

namespace pyloc::cuda {

// Bytes of workspace for N maps of B problems.
std::size_t estimate_pose_workspace(std::int64_t num_maps, std::int64_t num_problems);

// All pointers are on the device; nothing waits for it. `workspace` is aligned to 256 bytes.
cudaError_t estimate_pose(const MsacInput& in, const MsacOutput& out, void* workspace, cudaStream_t stream);

}  // namespace pyloc::cuda
