// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Launches the phases of a schedule (pyloc/msac_schedule.h) on a stream, a block of Phase::kThreads threads
// for each of the phase's blocks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "pyloc/block_group.h"

namespace pyloc::cuda {

// At least so many registers are left for a phase that each multiprocessor holds this many of its blocks.
template <class Phase>
constexpr int kBlocksPerMultiprocessor = 1;

template <class Phase>
__global__ void __launch_bounds__(Phase::kThreads, kBlocksPerMultiprocessor<Phase>)
    run_phase(const __grid_constant__ Phase phase) {
  using Shared = typename Phase::template Shared<Phase::kThreads>;
  __shared__ __align__(16) unsigned char memory[sizeof(Shared)];
  phase.run(BlockGroup<Phase::kThreads>(), *reinterpret_cast<Shared*>(memory), std::int64_t(blockIdx.x));
}

// The same with an array of floats of the launch's size in shared memory.
template <class Phase>
__global__ void __launch_bounds__(Phase::kThreads, kBlocksPerMultiprocessor<Phase>)
    run_dense_phase(const __grid_constant__ Phase phase) {
  extern __shared__ float cells[];
  typename Phase::template Shared<Phase::kThreads> none;
  phase.run(BlockGroup<Phase::kThreads>(), none, std::int64_t(blockIdx.x), cells);
}

// Bytes of shared memory that a block of the current device may ask for.
inline std::int64_t largest_shared_memory() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    return 0;
  return bytes;
}

struct StreamLauncher {
  cudaStream_t stream;
  cudaError_t status = cudaSuccess;

  template <class Phase>
  bool run(const Phase& phase, std::int64_t blocks) {
    if (blocks == 0) return true;
    if (!fits(blocks)) return false;
    run_phase<Phase><<<unsigned(blocks), Phase::kThreads, 0, stream>>>(phase);
    return launched();
  }

  template <class Phase>
  bool run_dense(const Phase& phase, std::int64_t blocks, std::int64_t floats) {
    if (blocks == 0) return true;
    if (!fits(blocks)) return false;
    const std::size_t bytes = std::size_t(floats) * sizeof(float);
    if (bytes > 48 * 1024) {
      status = cudaFuncSetAttribute(run_dense_phase<Phase>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    int(bytes));
      if (status != cudaSuccess) return false;
    }
    run_dense_phase<Phase><<<unsigned(blocks), Phase::kThreads, bytes, stream>>>(phase);
    return launched();
  }

 private:
  bool fits(std::int64_t blocks) {
    if (blocks > 0x7fffffff) status = cudaErrorInvalidValue;
    return status == cudaSuccess;
  }
  bool launched() {
    status = cudaGetLastError();
    return status == cudaSuccess;
  }
};

}  // namespace pyloc::cuda
