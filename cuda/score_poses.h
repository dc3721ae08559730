// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Costs of many poses on loss maps (pyloc/score_schedule.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "pyloc/score_schedule.h"

namespace pyloc::cuda {

// Bytes of workspace for N maps of B problems and M poses of each.
std::size_t score_poses_workspace(std::int64_t num_maps, std::int64_t num_problems, std::int64_t num_poses);

// cost (B, M). All pointers are on the device; nothing waits for it. `workspace` is aligned to 256 bytes.
cudaError_t score_poses(const ScoreInput& in, double* cost, void* workspace, cudaStream_t stream);

}  // namespace pyloc::cuda
