// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/p3p.h"

#include "cpu/transpose.h"
#include "cpu/twin.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kProblemsPerChunk = 1024;

// The mask as bytes 0 or 1, for four slots side by side: slot s is byte s of a lane's 32 bits.
template <class T>
PYLOC_INLINE void store_valid(const PackMask<T> valid[4], std::uint8_t* bytes) {
  const auto word = (valid[0].raw & 1) | (valid[1].raw & (1 << 8)) | (valid[2].raw & (1 << 16)) |
                    (valid[3].raw & (1 << 24));
  typedef std::int32_t Words __attribute__((vector_size(4 * Pack<T>::kWidth)));
  const Words words = __builtin_convertvector(word, Words);
  std::memcpy(bytes, &words, sizeof(words));
}

template <class P>
PYLOC_INLINE void load_triples(const P columns[18], Vec3<Twin<P>> triples[3]) {
  for (int i = 0; i < 3; ++i)
    triples[i] = {{columns[3 * i], columns[9 + 3 * i]},
                  {columns[3 * i + 1], columns[10 + 3 * i]},
                  {columns[3 * i + 2], columns[11 + 3 * i]}};
}

template <class P>
struct Prepared {
  P3PProblem<Twin<P>> problem;
  P3PCubic<Twin<P>> cubic;
};

template <class T>
PYLOC_INLINE void prepare(const T* bearings, const T* points, Prepared<Pack<T>>& prepared) {
  constexpr int W = Pack<T>::kWidth;
  Pack<T> columns[18];
  Vec3<Twin<Pack<T>>> rays[3], corners[3];
  load_columns<9>(bearings, columns);
  load_columns<9>(bearings + 9 * W, columns + 9);
  load_triples(columns, rays);
  load_columns<9>(points, columns);
  load_columns<9>(points + 9 * W, columns + 9);
  load_triples(columns, corners);
  prepared.problem = p3p_setup(rays, corners);
  prepared.cubic = p3p_cubic(prepared.problem.pairs);
}

template <class T>
PYLOC_INLINE void finish(const Prepared<Pack<T>>& prepared, const Twin<Pack<T>>& root, T* cam_from_world,
                         std::uint8_t* valid) {
  using Both = Twin<Pack<T>>;
  constexpr int W = Pack<T>::kWidth;
  Vec3<Both> depths[4];
  p3p_depths(prepared.problem.pairs, prepared.cubic, root, prepared.problem.valid, depths);
  alignas(64) T out[2][48 * W];
  PackMask<T> found[2][4];
  for (int slot = 0; slot < 4; ++slot) {
    Pose<Both> pose;
    const Mask<Both> ok = p3p_pose(prepared.problem, depths[slot], pose);
    found[0][slot] = ok.first;
    found[1][slot] = ok.second;
    const Both* t = &pose.t.x;
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 4; ++c) {
        const Both& value = c < 3 ? pose.R(r, c) : t[r];
        value.first.store(out[0] + (12 * slot + 4 * r + c) * W);
        value.second.store(out[1] + (12 * slot + 4 * r + c) * W);
      }
  }
  for (int half = 0; half < 2; ++half) {
    store_columns<48>(out[half], cam_from_world + 48 * half * W);
    store_valid(found[half], valid + 4 * half * W);
  }
}

// Problems of one block: two twins of packs. The cubic's root, a long chain of dependent operations, is
// found for all four packs at a time.
template <class T>
constexpr int kBlock = 4 * Pack<T>::kWidth;

template <class T>
__attribute__((noinline)) void solve_block(const T* bearings, const T* points, T* cam_from_world,
                                           std::uint8_t* valid) {
  using Four = Twin<Twin<Pack<T>>>;
  constexpr int n = kBlock<T> / 2;
  Prepared<Pack<T>> a, b;
  prepare(bearings, points, a);
  prepare(bearings + 9 * n, points + 9 * n, b);
  const Four root =
      p3p_cubic_root(Four(a.cubic.B, b.cubic.B), Four(a.cubic.C, b.cubic.C), Four(a.cubic.D, b.cubic.D));
  finish(a, root.first, cam_from_world, valid);
  finish(b, root.second, cam_from_world + 48 * n, valid + 4 * n);
}

template <class T>
void solve(const T* bearings, const T* points, std::int64_t count, T* cam_from_world, std::uint8_t* valid) {
  constexpr int W = kBlock<T>;
  std::int64_t i = 0;
  for (; i + W <= count; i += W)
    solve_block(bearings + 9 * i, points + 9 * i, cam_from_world + 48 * i, valid + 4 * i);
  const std::size_t left = std::size_t(count - i);
  if (left == 0) return;
  // Zeros in the missing lanes are problems without a solution.
  T in[18 * W] = {}, poses[48 * W];
  std::uint8_t found[4 * W];
  std::memcpy(in, bearings + 9 * i, 9 * left * sizeof(T));
  std::memcpy(in + 9 * W, points + 9 * i, 9 * left * sizeof(T));
  solve_block(in, in + 9 * W, poses, found);
  std::memcpy(cam_from_world + 48 * i, poses, 48 * left * sizeof(T));
  std::memcpy(valid + 4 * i, found, 4 * left);
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
