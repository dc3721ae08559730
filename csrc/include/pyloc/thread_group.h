// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Threads that solve one problem together: one or several blocks on the GPU, a single thread on the CPU, and
// in the tests CPU threads in lock step (tests/cpp/lane_group.h), so that what a kernel does is checked where
// no GPU is.
//
// A group has rank() in [0, size()) and size(). It consists of parts (blocks) that share fast memory and do
// the deciding each for itself, from sums that are the same in all:
//   leads()                      true for one thread of every part
//   sync()                       barrier that orders memory among the threads of a part
//   sum(double (&v)[N])          N <= 32; the address of the N sums over all threads of the group, which stay
//                                there until the next sum; consumes v; a barrier too
// and of tiles of kTile consecutive threads, with tile_rank() and
//   tile_broadcast(x, source)    the value of the tile's thread `source`
//   tile_sum(x), tile_max(x)     over the tile, for every thread of it
// All threads of the group make the same calls in the same order. Sums are added in an order that depends on
// the sizes alone: the same bits every time.
#pragma once

#include "pyloc/config.h"

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#endif

PYLOC_NAMESPACE_BEGIN

class LoneThread {
 public:
  static constexpr int kTile = 1;
  PYLOC_HD PYLOC_INLINE int rank() const { return 0; }
  PYLOC_HD PYLOC_INLINE int size() const { return 1; }
  PYLOC_HD PYLOC_INLINE bool leads() const { return true; }
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
// What groups of blocks of blockDim.x threads, a multiple of 32 up to 1024, have in common.
class WarpTiles {
 public:
  static constexpr int kTile = 8;
  static constexpr unsigned kWarp = 0xffffffffu;

  __device__ __forceinline__ bool leads() const { return threadIdx.x == 0; }
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

 protected:
  using Partial = double[32][32];  // (warps, values)

  // Sum k over the warp, in its thread k, by halving: a thread keeps half of its values, gives the other half
  // away and adds what it is given: 31 exchanges for 32 values in place of 160.
  template <int N>
  __device__ static __forceinline__ double warp_sum(double (&v)[N]) {
    static_assert(N <= 32, "a warp holds one value per thread");
    const int lane = int(threadIdx.x) % 32;
    if constexpr (N <= 4) {
      double mine = 0.0;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        for (int step = 16; step > 0; step /= 2) v[k] += __shfl_xor_sync(kWarp, v[k], step);
        if (lane == k) mine = v[k];
      }
      return mine;
    } else {
      double w[32];
#pragma unroll
      for (int k = 0; k < 32; ++k) w[k] = k < N ? v[k < N ? k : 0] : 0.0;
#pragma unroll
      for (int half = 16; half > 0; half /= 2) {
        const bool upper = (lane & half) != 0;
#pragma unroll
        for (int k = 0; k < half; ++k) {
          const double give = upper ? w[k] : w[k + half], keep = upper ? w[k + half] : w[k];
          w[k] = keep + __shfl_xor_sync(kWarp, give, half);
        }
      }
      return w[0];
    }
  }

  // Sum k over the block in thread k < 32; undefined in the others.
  template <int N>
  __device__ static __forceinline__ double block_sum(Partial& partial, double (&v)[N]) {
    const int lane = int(threadIdx.x) % 32;
    partial[threadIdx.x / 32][lane] = warp_sum(v);
    __syncthreads();
    double all = 0.0;
    if (threadIdx.x < 32)
      for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) all += partial[warp][lane];
    return all;
  }
};

// One block.
class WarpBlock : public WarpTiles {
 public:
  struct Scratch {  // in shared memory
    Partial partial;
    double total[32];
  };
  __device__ explicit WarpBlock(Scratch& scratch) : scratch_(&scratch) {}
  __device__ __forceinline__ int rank() const { return int(threadIdx.x); }
  __device__ __forceinline__ int size() const { return int(blockDim.x); }
  template <int N>
  __device__ __forceinline__ const double* sum(double (&v)[N]) const {
    const double all = block_sum(scratch_->partial, v);
    if (threadIdx.x < 32) scratch_->total[threadIdx.x] = all;
    __syncthreads();
    return scratch_->total;
  }

 private:
  Scratch* scratch_;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// The blocks of a thread block cluster, which run at the same time and read each other's shared memory. They
// must wait for each other (`finish`) before they end.
class ClusterBlocks : public WarpTiles {
 public:
  struct Scratch {  // in shared memory
    Partial partial;
    double of_block[2][32], total[32];
  };
  __device__ explicit ClusterBlocks(Scratch& scratch)
      : scratch_(&scratch), cluster_(cooperative_groups::this_cluster()) {}
  __device__ __forceinline__ int rank() const {
    return int(cluster_.block_rank() * blockDim.x + threadIdx.x);
  }
  __device__ __forceinline__ int size() const { return int(cluster_.num_blocks() * blockDim.x); }
  // Every block adds up the sums of all, in their order. One barrier is enough: a block writes the other one
  // of its two rows next time, and comes back to this one only when all have been through that barrier.
  template <int N>
  __device__ __forceinline__ const double* sum(double (&v)[N]) const {
    double* mine = scratch_->of_block[turn_];
    turn_ = 1 - turn_;
    const double part = block_sum(scratch_->partial, v);
    if (threadIdx.x < 32) mine[threadIdx.x] = part;
    cluster_.sync();
    if (threadIdx.x < 32) {
      double all = 0.0;
      for (unsigned b = 0; b < cluster_.num_blocks(); ++b)
        all += cluster_.map_shared_rank(mine, b)[threadIdx.x];
      scratch_->total[threadIdx.x] = all;
    }
    __syncthreads();
    return scratch_->total;
  }
  __device__ __forceinline__ void finish() const { cluster_.sync(); }

 private:
  Scratch* scratch_;
  cooperative_groups::cluster_group cluster_;
  mutable int turn_ = 0;
};
#endif
#endif

PYLOC_NAMESPACE_END
