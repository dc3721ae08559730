// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <atomic>

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

// The same with a cluster of blocks per problem.
__global__ void __launch_bounds__(kMaxThreads) refine_in_clusters(GncBatch batch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ ClusterBlocks::Scratch scratch;
  __shared__ GncShared shared;
  const ClusterBlocks group(scratch);
  refine_problem(group, batch, blockIdx.x / cooperative_groups::this_cluster().num_blocks(), shared);
  group.finish();
#endif
}

// Whether this device has clusters and this build the code for them: compiled for compute capability 9.0 or
// newer, not translated from what an older one was given. Asked once per device.
bool has_clusters() {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 0: not asked, 1: no, 2: yes
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
  if (known[device] == 0) {
    int clusters = 0;
    cudaFuncAttributes code{};
    const bool yes = cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device) == cudaSuccess &&
                     clusters != 0 && cudaFuncGetAttributes(&code, refine_in_clusters) == cudaSuccess &&
                     code.ptxVersion >= 90;
    (void)cudaGetLastError();
    known[device] = yes ? 2 : 1;
  }
  return known[device] == 2;
}

cudaError_t launch_clusters(const GncBatch& batch, unsigned blocks, int threads, cudaStream_t stream) {
  cudaLaunchAttribute shape{};
  shape.id = cudaLaunchAttributeClusterDimension;
  shape.val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(batch.problems) * blocks);
  config.blockDim = dim3(unsigned(threads));
  config.stream = stream;
  config.attrs = &shape;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, refine_in_clusters, batch);
}

}  // namespace

// Shapes alone decide how many threads work on a problem, and with it the order of sums. A few problems get
// several processors each, up to the 8 that every device with clusters grants.
cudaError_t refine_pose(const GncBatch& batch, cudaStream_t stream) {
  if (batch.problems <= 0) return cudaSuccess;
  if (batch.problems > 0x7fffffff || batch.options.published) return cudaErrorInvalidValue;
  const std::int64_t maps = batch.maps.count / batch.problems;
  const unsigned blocks = batch.problems <= 16 ? 8 : batch.problems <= 32 ? 4 : batch.problems <= 64 ? 2 : 1;
  // With two smaller blocks on a processor, one works while a thread of the other decides.
  const int most = batch.problems > 128 ? 256 : kMaxThreads;
  const int threads = maps > 256 ? most : maps > 128 ? 256 : 128;
  if (blocks > 1 && maps > 128 && has_clusters()) {
    if (launch_clusters(batch, blocks, threads, stream) == cudaSuccess) return cudaSuccess;
    (void)cudaGetLastError();  // a slice of a device may be too small for that many
  }
  refine<<<unsigned(batch.problems), threads, 0, stream>>>(batch);
  return cudaGetLastError();
}

}  // namespace pyloc::cuda
