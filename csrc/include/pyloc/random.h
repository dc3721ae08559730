// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). The same (seed, counter) gives the same bits on every device and thread count.
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

struct Random4 {
  std::uint32_t v[4];
};

PYLOC_HD inline Random4 philox(std::uint64_t seed, std::uint64_t counter, std::uint64_t stream = 0) {
  std::uint32_t c0 = std::uint32_t(counter), c1 = std::uint32_t(counter >> 32);
  std::uint32_t c2 = std::uint32_t(stream), c3 = std::uint32_t(stream >> 32);
  std::uint32_t k0 = std::uint32_t(seed), k1 = std::uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t(0xD2511F53u) * c0, p1 = std::uint64_t(0xCD9E8D57u) * c2;
    c0 = std::uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = std::uint32_t(p1);
    c2 = std::uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = std::uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform integer in [0, n) from 32 random bits, n < 2^32 (multiply-shift; bias below n / 2^32).
PYLOC_HD PYLOC_INLINE int bounded(std::uint32_t bits, int n) {
  return int((std::uint64_t(bits) * std::uint64_t(n)) >> 32);
}

// Three distinct indices in [0, n), n >= 3: draws from shrinking ranges shifted past earlier picks, so
// no rejection and exactly one Philox call.
PYLOC_HD inline void sample_triplet(std::uint64_t seed, std::uint64_t hypothesis, int n, int out[3]) {
  const Random4 r = philox(seed, hypothesis);
  const int a = bounded(r.v[0], n);
  int b = bounded(r.v[1], n - 1);
  if (b >= a) ++b;
  int c = bounded(r.v[2], n - 2);
  const int low = a < b ? a : b, high = a < b ? b : a;
  if (c >= low) ++c;
  if (c >= high) ++c;
  out[0] = a;
  out[1] = b;
  out[2] = c;
}

PYLOC_NAMESPACE_END
