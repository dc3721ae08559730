// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Threads that solve one problem together: a block on the GPU, a single thread on the CPU, and in the tests
// several CPU threads in lock step (tests/cpp/lane_group.h), so that what a kernel does is checked where no
// GPU is.
//
// A group has rank() in [0, size()), size() and
//   sync()                       barrier that orders memory among the group
//   sum(double (&v)[N])          N <= 32; the address of the N sums over all threads, which stay there until
//                                the next sum; consumes v; a barrier too
// and consists of tiles of kTile consecutive threads, with tile_rank() and
//   tile_broadcast(x, source)    the value of the tile's thread `source`
//   tile_sum(x), tile_max(x)     over the tile, for every thread of it
// All threads of the group make the same calls in the same order. Sums are added in an order that depends on
// size() alone: the same bits every time.
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

class LoneThread {
 public:
  static constexpr int kTile = 1;
  PYLOC_HD PYLOC_INLINE int rank() const { return 0; }
  PYLOC_HD PYLOC_INLINE int size() const { return 1; }
  PYLOC_HD PYLOC_INLINE void sync() const {}
  template <int N>
  PYLOC_HD PYLOC_INLINE const double* sum(double (&v)[N]) const {
    static_assert(N <= 32, "as in a warp");
    for (int k = 0; k < N; ++k) total_[k] = v[k];
    return total_;
  }
  PYLOC_HD PYLOC_INLINE int tile_rank() const { return 0; }
  template <class T>
  PYLOC_HD PYLOC_INLINE T tile_broadcast(T x, int) const {
    return x;
  }
  template <class T>
  PYLOC_HD PYLOC_INLINE T tile_sum(T x) const {
    return x;
  }
  template <class T>
  PYLOC_HD PYLOC_INLINE T tile_max(T x) const {
    return x;
  }

 private:
  mutable double total_[32];
};

#if defined(__CUDACC__)
// A block of blockDim.x threads, a multiple of 32 up to 1024.
class WarpBlock {
 public:
  struct Scratch {  // in shared memory
    double partial[32][32], total[32];
  };
  static constexpr int kTile = 8;
  static constexpr unsigned kWarp = 0xffffffffu;

  __device__ explicit WarpBlock(Scratch& scratch) : scratch_(&scratch) {}
  __device__ __forceinline__ int rank() const { return int(threadIdx.x); }
  __device__ __forceinline__ int size() const { return int(blockDim.x); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ int tile_rank() const { return int(threadIdx.x) % kTile; }

  template <class T>
  __device__ __forceinline__ T tile_broadcast(T x, int source) const {
    return __shfl_sync(kWarp, x, source, kTile);
  }
  template <class T>
  __device__ __forceinline__ T tile_sum(T x) const {
    for (int step = kTile / 2; step > 0; step /= 2) x = x + __shfl_xor_sync(kWarp, x, step, kTile);
    return x;
  }
  template <class T>
  __device__ __forceinline__ T tile_max(T x) const {
    for (int step = kTile / 2; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(kWarp, x, step, kTile);
      x = other > x ? other : x;
    }
    return x;
  }

  // In a warp by halving: a thread keeps half of its values, gives the other half away and adds what it is
  // given, until thread k holds the warp's sum of value k: 31 exchanges for 32 values in place of 160. Then
  // over the warps, in their order.
  template <int N>
  __device__ __forceinline__ const double* sum(double (&v)[N]) const {
    static_assert(N <= 32, "a warp holds one value per thread");
    const int lane = int(threadIdx.x) % 32;
    double w[32];
    if constexpr (N <= 4) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        for (int step = 16; step > 0; step /= 2) v[k] += __shfl_xor_sync(kWarp, v[k], step);
        if (k == 0 || lane == k) w[0] = v[k];
      }
    } else {
#pragma unroll
      for (int k = 0; k < 32; ++k) w[k] = k < N ? v[k < N ? k : 0] : 0.0;
      halve(w, lane);
    }
    scratch_->partial[threadIdx.x / 32][lane] = w[0];
    __syncthreads();
    if (threadIdx.x < 32) {
      double all = scratch_->partial[0][lane];
      for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) all += scratch_->partial[warp][lane];
      scratch_->total[lane] = all;
    }
    __syncthreads();
    return scratch_->total;
  }

 private:
  __device__ static __forceinline__ void halve(double (&w)[32], int lane) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
      const bool upper = (lane & half) != 0;
#pragma unroll
      for (int k = 0; k < half; ++k) {
        const double give = upper ? w[k] : w[k + half], keep = upper ? w[k + half] : w[k];
        w[k] = keep + __shfl_xor_sync(kWarp, give, half);
      }
    }
  }

  Scratch* scratch_;
};
#endif

PYLOC_NAMESPACE_END
