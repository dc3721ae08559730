// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Products of descriptors with the cells of their windows in a feature map (D, H, W).
//
// Windows overlap: 1000 windows of 64 x 64 cells cover a map of 600 x 800 eight times. So the loop runs over
// the map and not over the windows. Bands of kBandRows rows are packed once into panels (D, kBandRows, 16),
// small enough for the first-level cache, and a panel is multiplied with all descriptors whose windows touch
// it: every feature is read from memory once, and a load is shared by up to kGroup products.
// A logit is summed over d in ascending order whoever shares its panel, so that a window's values do not
// depend on the other windows.
#pragma once

#include "cpu/tile_pack.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kPanel = 16;  // columns of a panel, whatever the width of a pack
#if defined(__AVX512F__)
constexpr int kBandRows = 2, kGroup = 12;
#elif defined(__AVX2__)
constexpr int kBandRows = 1, kGroup = 6;
#else
constexpr int kBandRows = 1, kGroup = 2;
#endif

// The part of a window for which logits are kept, and where they go: the logit of map cell (x, y) is
// at out[(y - y0) * stride + x - left]; left is a multiple of kPanel, so panels are stored whole.
struct WindowSlot {
  std::int32_t x0, x1, y0, y1;  // columns [x0, x1), rows [y0, y1)
  std::int32_t left;
  std::int32_t descriptor;
  float* out;
};

// acc[p][v] = sum over d of descriptor p times pack v of the panel's rows.
template <int P>
PYLOC_INLINE void multiply_panel(const float* panel, std::int64_t D, const float* const* descriptor,
                                 float* out) {
  constexpr int kPacks = kBandRows * kPanel / PackF::kWidth;
  PackF acc[P][kPacks];
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < kPacks; ++v) acc[p][v] = PackF(0.0f);
  for (std::int64_t d = 0; d < D; ++d) {
    PackF b[kPacks];
    for (int v = 0; v < kPacks; ++v) b[v] = PackF::load(panel + (d * kPacks + v) * PackF::kWidth);
    for (int p = 0; p < P; ++p) {
      const PackF a(descriptor[p][d]);
      for (int v = 0; v < kPacks; ++v) acc[p][v] = fma_(a, b[v], acc[p][v]);
    }
  }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < kPacks; ++v) acc[p][v].store(out + (p * kPacks + v) * PackF::kWidth);
}

template <int P>
PYLOC_INLINE void multiply_panel_by_count(int count, const float* panel, std::int64_t D,
                                          const float* const* descriptor, float* out) {
  if constexpr (P > 1)
    if (count < P) return multiply_panel_by_count<P - 1>(count, panel, D, descriptor, out);
  multiply_panel<P>(panel, D, descriptor, out);
}

// kPanel neighbouring values as float32.
template <class Load>
PYLOC_INLINE void load_panel_row(const typename Load::Element* from, float* to) {
  for (int i = 0; i < kPanel; ++i) to[i] = Load::load(from + i);
}
#if defined(__AVX512F__)
template <>
PYLOC_INLINE void load_panel_row<LoadFloat16>(const std::uint16_t* from, float* to) {
  _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}
#elif defined(__F16C__)
template <>
PYLOC_INLINE void load_panel_row<LoadFloat16>(const std::uint16_t* from, float* to) {
  for (int i = 0; i < kPanel; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
}
#endif

// Rows [y, y + kBandRows) and columns [x, x + kPanel) of channel d; zeros outside the map.
template <class Load>
PYLOC_INLINE void pack_window_panel(const void* features, std::int64_t d, std::int64_t D, std::int64_t H,
                                    std::int64_t W, std::int64_t y, std::int64_t x, float* out) {
  const auto* base = static_cast<const typename Load::Element*>(features) + (d * H + y) * W + x;
  const std::int64_t columns = x + kPanel <= W ? kPanel : W - x;
  // A channel's plane is far from the next: the processor does not foresee the step.
  constexpr std::int64_t kAhead = 4;
  if (d + kAhead < D)
    for (std::int64_t r = 0; r < kBandRows && y + r < H; ++r) __builtin_prefetch(base + (kAhead * H + r) * W);
  for (std::int64_t r = 0; r < kBandRows; ++r, base += W, out += kPanel) {
    if (y + r < H && columns == kPanel) {
      load_panel_row<Load>(base, out);
    } else {
      const std::int64_t held = y + r < H ? columns : 0;
      for (std::int64_t i = 0; i < held; ++i) out[i] = Load::load(base + i);
      for (std::int64_t i = held; i < kPanel; ++i) out[i] = 0.0f;
    }
  }
}

PYLOC_NAMESPACE_END
