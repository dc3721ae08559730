// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One reading of the kernel matrix K (rows, ld): every row's product with a vector, a factor per row that
// follows from it, and the column sums of K's rows times their factors. Half an iteration of Sinkhorn,
// forward or adjoint, waits for the rows' products alone, so a row is still in the first-level cache when its
// second use comes; four rows at once share the reading of the vector and of the sums.
#pragma once

#include <cstdint>

#include "cpu/score_rows.h"
#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kSweepRows = 4;  // rows are padded to a multiple with zeros

// e^x, -inf included; 0 below 2^-126, so that no denormal number arises; x <= 0 unless kPositive, when it
// saturates above 88. x = n ln 2 + r with |r| <= ln(2) / 2, the minimax polynomial of degree 5 with value 1
// at 0 for e^r, and n goes into the exponent bits. Relative error below 2e-7 for x > -10, 4e-7 for all.
template <bool kPositive>
PYLOC_INLINE PackF exp_of(PackF x) {
  PackF clamped = max_(x, PackF(-87.33654f));
  if (kPositive) clamped = min_(clamped, PackF(88.0f));
  const PackF magic(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const PackF t = fma_(clamped, PackF(1.44269504f), magic), n = t - magic;
#if defined(__FMA__) || defined(__aarch64__)
  const PackF r = fma_(n, PackF(-0.69314718f), clamped);
#else  // ln 2 in two parts: the first times n is exact
  const PackF r = fma_(n, PackF(2.12194440e-4f), fma_(n, PackF(-0.693359375f), clamped));
#endif
  PackF p(0.00829031497f);
  p = fma_(p, r, PackF(0.0418979293f));
  p = fma_(p, r, PackF(0.166676362f));
  p = fma_(p, r, PackF(0.499991496f));
  p = fma_(p, r, PackF(0.999999708f));
  p = fma_(p, r, PackF(1.0f));
  const PackF e = from_bits(bits(p) + shift_left(bits(t), 23));
  return select(x < -87.33654f, PackF(0.0f), e);
}
PYLOC_INLINE PackF exp_close_(PackF x) { return exp_of<true>(x); }
PYLOC_INLINE PackF exp_below_(PackF x) { return exp_of<false>(x); }

// out[r] = sum of the lanes of a[r], in the same tree order for every r.
PYLOC_INLINE void reduce_rows(const PackF* a, float* out) {
  constexpr int W = PackF::kWidth;
  typedef float Quad __attribute__((vector_size(16)));
  Quad q[kSweepRows];
  for (int r = 0; r < kSweepRows; ++r) {
    Quad part[W / 4];
    std::memcpy(part, &a[r].raw, sizeof(part));
    for (int step = W / 8; step > 0; step /= 2)
      for (int i = 0; i < step; ++i) part[i] += part[i + step];
    q[r] = part[0];
  }
#if defined(__SSE2__)
  __m128 x = (__m128)q[0], y = (__m128)q[1], z = (__m128)q[2], w = (__m128)q[3];
  _MM_TRANSPOSE4_PS(x, y, z, w);
  const Quad total = ((Quad)x + (Quad)z) + ((Quad)y + (Quad)w);
  std::memcpy(out, &total, sizeof(total));
#else
  for (int r = 0; r < kSweepRows; ++r) out[r] = (q[r][0] + q[r][2]) + (q[r][1] + q[r][3]);
#endif
}

// Four rows of K and V vectors: dot[v][r] = <row r, x[v]>.
template <int V>
PYLOC_INLINE void row_products(const float* k, std::int64_t ld, const float* const* x,
                               float (*dot)[kSweepRows]) {
  constexpr int W = PackF::kWidth;
  constexpr int kChains = 2 / V;  // sums in flight: 8 hide the latency of an addition
  PackF sum[V][kSweepRows][kChains];
#pragma GCC unroll 16
  for (int i = 0; i < V * kSweepRows * kChains; ++i) (&sum[0][0][0])[i] = PackF(0.0f);
  for (std::int64_t c = 0; c < ld; c += kChains * W) {
#pragma GCC unroll 2
    for (int j = 0; j < kChains; ++j) {
      PackF at[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) at[v] = PackF::load(x[v] + c + j * W);
#pragma GCC unroll 4
      for (int r = 0; r < kSweepRows; ++r) {
        const PackF entry = PackF::load(k + r * ld + c + j * W);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[v][r][j] = fma_(entry, at[v], sum[v][r][j]);
      }
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    PackF both[kSweepRows];
#pragma GCC unroll 4
    for (int r = 0; r < kSweepRows; ++r) {
      both[r] = sum[v][r][0];
      if (kChains > 1) both[r] = both[r] + sum[v][r][kChains - 1];
    }
    reduce_rows(both, dot[v]);
  }
}

// sums[v] += factor[v][r] * row r. The rows are in the first-level cache: meanwhile `next` comes closer.
template <int V>
PYLOC_INLINE void add_rows(const float* k, std::int64_t ld, const float* const* factor, float* const* sums,
                           const float* next) {
  constexpr int W = PackF::kWidth;
  PackF f[V][kSweepRows];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 4
    for (int r = 0; r < kSweepRows; ++r) f[v][r] = PackF(factor[v][r]);
  for (std::int64_t c = 0; c < ld; c += W) {
    PackF s[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) s[v] = PackF::load(sums[v] + c);
#pragma GCC unroll 4
    for (int r = 0; r < kSweepRows; ++r) {
      __builtin_prefetch(next + r * ld + c);
      const PackF entry = PackF::load(k + r * ld + c);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) s[v] = fma_(entry, f[v][r], s[v]);
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) s[v].store(sums[v] + c);
  }
}

PYLOC_INLINE void row_products(const float* k, std::int64_t ld, const float* x, float* dot) {
  row_products<1>(k, ld, &x, reinterpret_cast<float (*)[kSweepRows]>(dot));
}
PYLOC_INLINE void add_rows(const float* k, std::int64_t ld, const float* factor, float* sums) {
  add_rows<1>(k, ld, &factor, &sums, k + kSweepRows * ld);
}

PYLOC_NAMESPACE_END
