// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One reading of the kernel matrix K (rows, ld): every row's product with a vector, a factor per row that
// follows from it, and the column sums of K's rows times their factors. Half an iteration of Sinkhorn,
// forward or adjoint, waits for the rows' products alone, so a row is still in the first-level cache when its
// second use comes; four rows at once share the reading of the vector and of the sums.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kSweepRows = 4;      // rows are padded to a multiple with zeros
constexpr int kSweepColumns = 32;  // ld is a multiple: two packs of the widest instruction set

// e^x for x <= 88, -inf included; 0 below 2^-126, so that no denormal number arises. x log2(e) is taken in
// two parts: its rounding, which grows with x, would be that of e^x.
PYLOC_INLINE PackF exp_close_(PackF x) {
  const PackF clamped = min_(max_(x, PackF(-87.33654f)), PackF(88.0f));
#if defined(__AVX512F__)
  const PackF n((PackF::Raw)_mm512_roundscale_ps((__m512)(clamped * 1.44269504f).raw,
                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const PackF n = floor_(fma_(clamped, PackF(1.44269504f), PackF(0.5f)));
#endif
  const PackF f = fma_(clamped, PackF(1.925963e-8f), fma_(clamped, PackF(1.44269502f), -n));
  PackF p(1.32647276e-3f);  // the polynomial of exp2_nonpositive_ in row_softmax.h
  p = fma_(p, f, PackF(9.67151265e-3f));
  p = fma_(p, f, PackF(5.55073374e-2f));
  p = fma_(p, f, PackF(2.40222421e-1f));
  p = fma_(p, f, PackF(6.93146978e-1f));
  p = fma_(p, f, PackF(1.0f));
#if defined(__AVX512F__)
  const PackF e((PackF::Raw)_mm512_scalef_ps((__m512)p.raw, (__m512)n.raw));
#else
  const PackF e = p * from_bits(shift_left(to_int(n) + 127, 23));
#endif
  return select(x < -87.33654f, PackF(0.0f), e);
}

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

// sums[v] += factor[v][r] * row r.
template <int V>
PYLOC_INLINE void add_rows(const float* k, std::int64_t ld, const float* const* factor, float* const* sums) {
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
  add_rows<1>(k, ld, &factor, &sums);
}

PYLOC_NAMESPACE_END
