// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/refine_pose.h"
#include "pyloc/gnc_verdict.h"

namespace pyloc::cuda {
namespace {

constexpr int kMaxThreads = 512;  // leaves a thread 128 registers

__global__ void __launch_bounds__(kMaxThreads) refine(GncBatch batch) {
  __shared__ WarpBlock::Scratch scratch;
  __shared__ GncShared shared;
  refine_problem(WarpBlock(scratch), batch, blockIdx.x, shared);
}

}  // namespace

cudaError_t refine_pose(const GncBatch& batch, cudaStream_t stream) {
  if (batch.problems <= 0) return cudaSuccess;
  if (batch.problems > 0x7fffffff || batch.options.published) return cudaErrorInvalidValue;
  // Shapes alone decide the size of the blocks, and with it the order of sums.
  const std::int64_t maps = batch.maps.count / batch.problems;
  const int threads = maps > 256 ? 512 : maps > 128 ? 256 : 128;
  refine<<<unsigned(batch.problems), threads, 0, stream>>>(batch);
  return cudaGetLastError();
}

}  // namespace pyloc::cuda
