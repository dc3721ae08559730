// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/p3p.h"

#include "cpu/simd_reciprocal.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kProblemsPerChunk = 1024;

// Problems [0, n) of the arrays, n <= W lanes; missing lanes repeat the first problem.
template <class T>
void solve_lanes(const T* bearings, const T* points, int n, T* cam_from_world, std::uint8_t* valid) {
  constexpr int W = Pack<T>::kWidth;
  alignas(64) T in[18 * W], out[48 * W];
  for (int lane = 0; lane < W; ++lane)
    for (int c = 0; c < 9; ++c) {
      in[c * W + lane] = bearings[9 * (lane < n ? lane : 0) + c];
      in[(9 + c) * W + lane] = points[9 * (lane < n ? lane : 0) + c];
    }
  Vec3<Pack<T>> f[3], X[3];
  for (int i = 0; i < 3; ++i) {
    const T* p = in + 3 * i * W;
    f[i] = {Pack<T>::load(p), Pack<T>::load(p + W), Pack<T>::load(p + 2 * W)};
    p += 9 * W;
    X[i] = {Pack<T>::load(p), Pack<T>::load(p + W), Pack<T>::load(p + 2 * W)};
  }
  const P3PProblem<Pack<T>> problem = p3p_setup(f, X);
  Vec3<Pack<T>> depths[4];
  p3p_depths(problem.pairs, problem.valid, depths);
  for (int slot = 0; slot < 4; ++slot) {
    Pose<Pack<T>> pose;
    const auto ok = p3p_pose(problem, depths[slot], pose);
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 3; ++c) pose.R(r, c).store(out + (12 * slot + 4 * r + c) * W);
    pose.t.x.store(out + (12 * slot + 3) * W);
    pose.t.y.store(out + (12 * slot + 7) * W);
    pose.t.z.store(out + (12 * slot + 11) * W);
    for (int lane = 0; lane < n; ++lane) valid[4 * lane + slot] = ok.raw[lane] != 0;
  }
  for (int lane = 0; lane < n; ++lane)
    for (int c = 0; c < 48; ++c) cam_from_world[48 * lane + c] = out[c * W + lane];
}

template <class T>
void solve(const T* bearings, const T* points, std::int64_t count, T* cam_from_world, std::uint8_t* valid) {
  constexpr std::int64_t W = Pack<T>::kWidth;
  for (std::int64_t i = 0; i < count; i += W)
    solve_lanes(bearings + 9 * i, points + 9 * i, int(count - i < W ? count - i : W), cam_from_world + 48 * i,
                valid + 4 * i);
}

template <class T>
void solve_threaded(const T* bearings, const T* points, std::int64_t count, T* cam_from_world,
                    std::uint8_t* valid, int num_threads) {
  const std::int64_t chunks = (count + kProblemsPerChunk - 1) / kProblemsPerChunk;
  runtime::parallel_for(chunks, num_threads, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kProblemsPerChunk, left = count - begin;
    solve(bearings + 9 * begin, points + 9 * begin, left < kProblemsPerChunk ? left : kProblemsPerChunk,
          cam_from_world + 48 * begin, valid + 4 * begin);
  });
}

}  // namespace

const P3pKernels& p3p_kernels() {
  static constexpr P3pKernels kernels{&solve<double>, &solve<float>, &solve_threaded<double>,
                                      &solve_threaded<float>};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
