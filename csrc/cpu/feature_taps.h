// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Bilinear features around a point, reduced to inner products. With f00, f10, f01, f11 the features of a
// cell's corners and h the descriptor, put
//   v0 = h - f00,  v1 = f10 - f00,  v2 = f01 - f00,  v3 = f11 - f10 - f01 + f00,  v4 = f00.
// Anywhere in the cell, at the fractions (a, b): F = v4 + a v1 + b v2 + a b v3, dF/dx = v1 + b v3,
// dF/dy = v2 + a v3 and h - F = v0 - a v1 - b v2 - a b v3. So the squared distance, its gradient and dF^T dF
// are forms in the inner products <v_i, v_j>: the D channels are read once per visited cell, and every
// further step inside the cell costs a few dozen operations. Differences keep the digits that |h|^2 - 2 h.F +
// |F|^2 would lose.
#pragma once

#include "cpu/tile_pack.h"

PYLOC_NAMESPACE_BEGIN

struct FeatureMap {
  const void* data;
  int dtype;           // float32, float16 or bfloat16
  bool channels_last;  // (H, W, D) in memory, else (D, H, W)
  std::int64_t channels;
  int height, width;
};

// Products <v_i, v_j>, i >= j, by rows; the last row is there only for normalised features.
constexpr int kProducts = 15;
constexpr int product_index(int i, int j) { return i * (i + 1) / 2 + j; }

template <bool normalized, class Raw>
PYLOC_INLINE void add_products(const Raw* v, Raw* sums) {
  constexpr int count = normalized ? 5 : 4;
#pragma GCC unroll 5
  for (int i = 0; i < count; ++i)
#pragma GCC unroll 5
    for (int j = 0; j <= i; ++j) sums[product_index(i, j)] += v[i] * v[j];
}

PYLOC_INLINE void cell_vectors(const PackF& h, const PackF taps[4], PackF v[5]) {
  v[0] = h - taps[0];
  v[1] = taps[1] - taps[0];
  v[2] = taps[2] - taps[0];
  v[3] = (taps[3] - taps[2]) - v[1];
  v[4] = taps[0];
}

template <class Load>
PYLOC_INLINE PackF load_run(const typename Load::Element* p, int count) {
  alignas(64) float lanes[PackF::kWidth] = {};
  if (count >= PackF::kWidth) {
    for (int i = 0; i < PackF::kWidth; ++i) lanes[i] = Load::load(p + i);
  } else {
    for (int i = 0; i < count; ++i) lanes[i] = Load::load(p + i);
  }
  return PackF::load(lanes);
}

// Channels last: a tap is one run of memory, lanes are channels. `cell` is y0 * W + x0; the cell's four
// corners lie in the map. products[k * stride] receives the sums.
template <bool normalized, class Load>
inline void cell_products_last(const FeatureMap& map, const float* h, std::int64_t cell, double* products,
                               std::int64_t stride) {
  using E = typename Load::Element;
  const std::int64_t D = map.channels;
  const E* f00 = static_cast<const E*>(map.data) + cell * D;
  const E* f01 = f00 + map.width * D;
  PackF sums[kProducts];
  for (PackF& s : sums) s = PackF(0.0f);
  for (std::int64_t d = 0; d < D; d += PackF::kWidth) {
    const int count = D - d < PackF::kWidth ? int(D - d) : PackF::kWidth;
    const PackF taps[4] = {load_run<Load>(f00 + d, count), load_run<Load>(f00 + D + d, count),
                           load_run<Load>(f01 + d, count), load_run<Load>(f01 + D + d, count)};
    PackF v[5];
    cell_vectors(load_run<LoadFloat32>(h + d, count), taps, v);
    add_products<normalized>(v, sums);
  }
  constexpr int used = normalized ? 15 : 10;
  for (int k = 0; k < used; ++k) products[k * stride] = double(reduce_add(sums[k]));
}

// Channels first: a channel is one image, lanes are points; planes are visited in order, so that each is
// read from memory once per chunk. `points` are indices into descriptors and products, `cells` theirs.
// `sums` is room for kProducts * round_up(count, PackF::kWidth) floats.
template <bool normalized, class Load>
inline void cell_products_first(const FeatureMap& map, const float* descriptors, const std::int32_t* points,
                                const std::int64_t* cells, int count, float* sums, double* products,
                                std::int64_t stride) {
  using E = typename Load::Element;
  constexpr int W = PackF::kWidth;
  const int padded = (count + W - 1) / W * W;
  const std::int64_t plane = std::int64_t(map.height) * map.width;
  std::memset(sums, 0, sizeof(float) * std::size_t(kProducts * padded));
  for (std::int64_t d = 0; d < map.channels; ++d) {
    const E* image = static_cast<const E*>(map.data) + d * plane;
    for (int start = 0; start < count; start += W) {
      alignas(64) float h[W] = {}, taps[4][W] = {};
      const int n = count - start < W ? count - start : W;
      for (int i = 0; i < n; ++i) {
        const E* corner = image + cells[start + i];
        h[i] = descriptors[points[start + i] * map.channels + d];
        taps[0][i] = Load::load(corner);
        taps[1][i] = Load::load(corner + 1);
        taps[2][i] = Load::load(corner + map.width);
        taps[3][i] = Load::load(corner + map.width + 1);
      }
      const PackF packs[4] = {PackF::load(taps[0]), PackF::load(taps[1]), PackF::load(taps[2]),
                              PackF::load(taps[3])};
      PackF v[5], s[kProducts];
      cell_vectors(PackF::load(h), packs, v);
      constexpr int used = normalized ? 15 : 10;
      for (int k = 0; k < used; ++k) s[k] = PackF::load(sums + k * padded + start);
      add_products<normalized>(v, s);
      for (int k = 0; k < used; ++k) s[k].store(sums + k * padded + start);
    }
  }
  for (int k = 0; k < (normalized ? 15 : 10); ++k)
    for (int i = 0; i < count; ++i) products[k * stride + points[i]] = double(sums[k * padded + i]);
}

PYLOC_NAMESPACE_END
