// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Graduated non-convexity over loss maps (pyloc/gnc_run.h), one block per problem, the whole of it in one
// launch.
#pragma once

#include <cuda_runtime_api.h>

#include "pyloc/gnc_batch.h"

namespace pyloc::cuda {

cudaError_t refine_pose(const GncBatch& batch, cudaStream_t stream);

}  // namespace pyloc::cuda
