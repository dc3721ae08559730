// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Compile-only: one P3P problem per CUDA thread.
#include "pyloc/p3p.h"

template <class T>
__global__ void p3p_per_thread(const T* bearings, const T* points, int count, T* cam_from_world,
                               int* solutions) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  pyloc::Vec3<T> f[3], X[3];
  for (int k = 0; k < 3; ++k) {
    const T *p = bearings + 9 * i + 3 * k, *q = points + 9 * i + 3 * k;
    f[k] = {p[0], p[1], p[2]};
    X[k] = {q[0], q[1], q[2]};
  }
  pyloc::Pose<T> poses[4];
  solutions[i] = pyloc::p3p(f, X, poses);
  for (int slot = 0; slot < 4; ++slot) pyloc::store_pose(poses[slot], cam_from_world + 48 * i + 12 * slot);
}

template __global__ void p3p_per_thread<float>(const float*, const float*, int, float*, int*);
template __global__ void p3p_per_thread<double>(const double*, const double*, int, double*, int*);
