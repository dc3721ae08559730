// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cuda/p3p.h"
#include "pyloc/p3p.h"

namespace pyloc::cuda {
namespace {

// A problem is read and written as 18 and 48 numbers side by side. Both go through shared memory, so that a
// warp's accesses to global memory are one contiguous piece; the odd strides of 9 and 49 keep the threads'
// own accesses to shared memory in different banks.
constexpr int kIn = 9, kOut = 48, kStride = kOut + 1;
template <class T>
constexpr int kThreads = sizeof(T) == 4 ? 128 : 64;  // 25 kB of shared memory either way

template <class T>
__device__ void read_triple(const T* row, Vec3<T> triple[3]) {
  for (int i = 0; i < 3; ++i) triple[i] = {row[3 * i], row[3 * i + 1], row[3 * i + 2]};
}

__device__ void store_valid(std::uint8_t* valid, int count) {
  const uchar4 bytes = make_uchar4(count > 0, count > 1, count > 2, count > 3);
  if (reinterpret_cast<std::uintptr_t>(valid) % 4 == 0) {
    *reinterpret_cast<uchar4*>(valid) = bytes;
  } else {  // a caller's own array may lie anywhere
    valid[0] = bytes.x, valid[1] = bytes.y, valid[2] = bytes.z, valid[3] = bytes.w;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads<T>)
    solve(const T* bearings, const T* points, std::int64_t count, T* cam_from_world, std::uint8_t* valid) {
  constexpr int threads = kThreads<T>;
  __shared__ T staged[threads * kStride];
  const std::int64_t first = std::int64_t(blockIdx.x) * threads;
  const int here = count - first < threads ? int(count - first) : threads, t = threadIdx.x;
  T *rays = staged, *corners = staged + threads * kIn;
  for (int i = t; i < here * kIn; i += threads) {
    rays[i] = bearings[first * kIn + i];
    corners[i] = points[first * kIn + i];
  }
  __syncthreads();
  Vec3<T> f[3] = {}, X[3] = {};
  if (t < here) {
    read_triple(rays + kIn * t, f);
    read_triple(corners + kIn * t, X);
  }
  __syncthreads();  // the inputs are in registers, their room is free for the poses
  if (t < here) {
    Pose<T> poses[4];
    store_valid(valid + 4 * (first + t), p3p(f, X, poses));
    for (int slot = 0; slot < 4; ++slot) store_pose(poses[slot], staged + kStride * t + 12 * slot);
  }
  __syncthreads();
  for (int i = t; i < here * kOut; i += threads) cam_from_world[first * kOut + i] = staged[i + i / kOut];
}

}  // namespace

template <class T>
cudaError_t p3p(const T* bearings, const T* points, std::int64_t count, T* cam_from_world,
                std::uint8_t* valid, cudaStream_t stream) {
  if (count <= 0) return cudaSuccess;
  const std::int64_t blocks = (count + kThreads<T> - 1) / kThreads<T>;
  if (blocks > 0x7fffffff) return cudaErrorInvalidValue;
  solve<T><<<unsigned(blocks), kThreads<T>, 0, stream>>>(bearings, points, count, cam_from_world, valid);
  return cudaGetLastError();
}

template cudaError_t p3p<float>(const float*, const float*, std::int64_t, float*, std::uint8_t*,
                                cudaStream_t);
template cudaError_t p3p<double>(const double*, const double*, std::int64_t, double*, std::uint8_t*,
                                 cudaStream_t);

}  // namespace pyloc::cuda
