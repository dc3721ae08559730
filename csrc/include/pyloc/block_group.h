// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Threads that work on one thing together, on a GPU (a block) and, for tests, on the CPU.
//
// A Group has a constant power of two kSize, rank() in [0, kSize) and sync(), a barrier that orders memory.
// All threads of a group call the functions here together. Sums run in an order that depends on kSize alone:
// the same bits every time. Each function begins with a barrier, so that scratch can be used again.
// thread_group.h has groups of a size known at run time, which exchange values within warps.
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

// One thread, for the CPU.
struct SerialGroup {
  static constexpr int kSize = 1;
  PYLOC_HD PYLOC_INLINE int rank() const { return 0; }
  PYLOC_HD PYLOC_INLINE void sync() const {}
};

#if defined(__CUDACC__)
// A CUDA block of Size threads.
template <int Size>
struct BlockGroup {
  static constexpr int kSize = Size;
  __device__ __forceinline__ int rank() const { return int(threadIdx.x); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
};
#endif

// Every thread's value into scratch (kSize), combined pairwise; all get the result.
template <class Group, class T, class Combine>
PYLOC_HD inline T group_reduce(const Group& g, T* scratch, T value, const Combine& combine) {
  g.sync();
  scratch[g.rank()] = value;
  for (int half = Group::kSize / 2; half > 0; half /= 2) {
    g.sync();
    if (g.rank() < half) scratch[g.rank()] = combine(scratch[g.rank()], scratch[g.rank() + half]);
  }
  g.sync();
  return scratch[0];
}

template <class T>
struct SumOf {
  PYLOC_HD PYLOC_INLINE T operator()(T a, T b) const { return a + b; }
};
template <class T>
struct LargestOf {
  PYLOC_HD PYLOC_INLINE T operator()(T a, T b) const { return a > b ? a : b; }
};

template <class Group, class T>
PYLOC_HD inline T group_sum(const Group& g, T* scratch, T value) {
  return group_reduce(g, scratch, value, SumOf<T>());
}
template <class Group, class T>
PYLOC_HD inline T group_max(const Group& g, T* scratch, T value) {
  return group_reduce(g, scratch, value, LargestOf<T>());
}

// The sum of the values of all threads of lower rank; `total` is that of all.
template <class Group>
PYLOC_HD inline int group_offset(const Group& g, int* scratch, int value, int& total) {
  const int r = g.rank();
  g.sync();
  scratch[r] = value;
  for (int step = 1; step < Group::kSize; step *= 2) {
    g.sync();
    const int before = r >= step ? scratch[r - step] : 0;
    g.sync();
    scratch[r] += before;
  }
  g.sync();
  total = scratch[Group::kSize - 1];
  return scratch[r] - value;
}

PYLOC_NAMESPACE_END
