// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Packing of the operands of tile_product.h into panels that the micro-kernels read from end to end.
//
// A panel holds P neighbouring items (descriptors: tile_rows, cells: tile_columns), depth after depth.
// Long depths are cut into blocks of tile_depth, so that a panel of cells stays in the first-level cache:
//   packed[block of depths][panel][depth within the block][item within the panel]
// 16-bit operands keep two (kDotBf16) or 32 (rows of kAmxBf16) neighbouring depths of an item together, as
// the instructions want them. Missing items and depths are zero.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd.h"
#include "pyloc/config.h"
#include "runtime/isa.h"

PYLOC_NAMESPACE_BEGIN

// What the packed panels hold and which instructions multiply them. Accumulators are always float32.
enum class TileOperand : int {
  kFloat32 = 0,  // float32 and float16 sources, and bfloat16 where the processor has no product for it
  kDotBf16 = 1,  // AVX512_BF16, pairs of depths
  kAmxBf16 = 2,  // AMX tiles
};

// An array of items by depths in the caller's memory; strides count elements.
struct TileSource {
  const void* data;
  int dtype;  // kFloat32, kFloat16 or kBFloat16
  std::int64_t item_stride;
  std::int64_t depth_stride;
};

#if defined(__AVX512F__)
constexpr int kPanelRows = 8, kPanelVectors = 3;  // 24 accumulators of 32 registers
#elif defined(__aarch64__)
constexpr int kPanelRows = 8, kPanelVectors = 3;
#else
constexpr int kPanelRows = 6, kPanelVectors = 2;  // 12 accumulators of 16 registers
#endif
constexpr int kPanelColumns = kPanelVectors * PackF::kWidth;

// Items per panel, and depths per block (a multiple of the instruction's own depth).
PYLOC_INLINE int tile_rows(TileOperand kind) { return kind == TileOperand::kAmxBf16 ? 32 : kPanelRows; }
PYLOC_INLINE int tile_columns(TileOperand kind) { return kind == TileOperand::kAmxBf16 ? 32 : kPanelColumns; }
PYLOC_INLINE std::int64_t tile_depth(TileOperand kind) { return kind == TileOperand::kFloat32 ? 128 : 256; }

PYLOC_INLINE std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}
PYLOC_INLINE std::int64_t padded_depth(TileOperand kind, std::int64_t depth) {
  const std::int64_t unit = kind == TileOperand::kFloat32 ? 1 : kind == TileOperand::kDotBf16 ? 2 : 32;
  return round_up(depth, unit);
}

// Bytes of `count` packed items, whole panels (row panels and column panels alike take P * depth elements).
PYLOC_INLINE std::int64_t packed_bytes(TileOperand kind, std::int64_t count, std::int64_t depth, int panel) {
  return round_up(count, panel) * padded_depth(kind, depth) * (kind == TileOperand::kFloat32 ? 4 : 2);
}

// Which product fits two arrays: 16-bit instructions only when both are bfloat16.
inline TileOperand tile_operand(int row_dtype, int column_dtype) {
#if defined(__AVX512F__)
  if (row_dtype == kBFloat16 && column_dtype == kBFloat16) {
    if (runtime::has_amx_bf16()) return TileOperand::kAmxBf16;
    if (runtime::has_avx512_bf16()) return TileOperand::kDotBf16;
  }
#endif
  (void)row_dtype;
  (void)column_dtype;
  return TileOperand::kFloat32;
}

PYLOC_INLINE std::uint32_t float_bits(float v) {
  std::uint32_t u;
  std::memcpy(&u, &v, 4);
  return u;
}
PYLOC_INLINE float float_of_bits(std::uint32_t u) {
  float v;
  std::memcpy(&v, &u, 4);
  return v;
}

// Loads of one element as float32; exact, and free of branches so that loops over them vectorise.
struct LoadFloat32 {
  using Element = float;
  static PYLOC_INLINE float load(const float* p) { return *p; }
};
struct LoadBf16 {
  using Element = std::uint16_t;
  static PYLOC_INLINE float load(const std::uint16_t* p) { return float_of_bits(std::uint32_t(*p) << 16); }
};
struct LoadFloat16 {
  using Element = std::uint16_t;
  static PYLOC_INLINE float load(const std::uint16_t* p) {
    const std::uint32_t h = *p;
    // The exponent moves from bias 15 to 127 by a product with 2^112, which also normalises subnormals.
    const float magnitude = float_of_bits((h & 0x7fffu) << 13) * 5.192296858534828e33f;
    const std::uint32_t special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    return float_of_bits(float_bits(magnitude) | special | ((h & 0x8000u) << 16));
  }
};

// One block of depths of one panel, float32. Returns the largest magnitude as bits: integers compare like
// the magnitudes, and NaN and infinity are 0x7f800000 or more.
template <class Load>
inline std::uint32_t pack_panel_float(const TileSource& s, std::int64_t item, int count, int panel,
                                      std::int64_t depth, std::int64_t depths, float* out) {
  using E = typename Load::Element;
  const E* base = static_cast<const E*>(s.data) + item * s.item_stride + depth * s.depth_stride;
  std::uint32_t largest = 0;
  if (sizeof(E) == 4 && s.item_stride == 1 && count == panel && panel % PackF::kWidth == 0) {
    const auto* from = reinterpret_cast<const float*>(base);
    PackI most(0);
    for (std::int64_t k = 0; k < depths; ++k, from += s.depth_stride, out += panel)
      for (int i = 0; i < panel; i += PackF::kWidth) {
        const PackF v = PackF::load(from + i);
        most = max_(bit_and(bits(v), PackI(0x7fffffff)), most);
        v.store(out + i);
      }
    return std::uint32_t(reduce_max(most));
  }
  if (s.item_stride == 1 || s.depth_stride != 1) {  // cells lie side by side: copy rows of the panel
    for (std::int64_t k = 0; k < depths; ++k) {
      for (int i = 0; i < count; ++i) {
        const float v = Load::load(base + k * s.depth_stride + i * s.item_stride);
        const std::uint32_t magnitude = float_bits(v) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
        out[k * panel + i] = v;
      }
      for (int i = count; i < panel; ++i) out[k * panel + i] = 0.0f;
    }
    return largest;
  }
  if (count < panel) std::memset(out, 0, sizeof(float) * std::size_t(panel * depths));
  for (int i = 0; i < count; ++i)  // channels last: each item is one run of memory
    for (std::int64_t k = 0; k < depths; ++k) {
      const float v = Load::load(base + i * s.item_stride + k);
      const std::uint32_t magnitude = float_bits(v) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
      out[k * panel + i] = v;
    }
  return largest;
}

// The same for bfloat16 kept as such; `group` neighbouring depths of an item stay together, and items are
// `sub` to a sub-panel (AMX rows: 16 items by 32 depths are one tile register).
inline std::uint32_t pack_panel_bf16(const TileSource& s, std::int64_t item, int count, int panel, int group,
                                     int sub, std::int64_t depth, std::int64_t depths, std::uint16_t* out) {
  const auto* base =
      static_cast<const std::uint16_t*>(s.data) + item * s.item_stride + depth * s.depth_stride;
  std::uint32_t largest = 0;
  const std::int64_t padded = round_up(depths, group);
  const bool whole_pairs = group == 2 && sub == panel && count == panel && padded == depths;
  if (whole_pairs && s.depth_stride == 1) {
    for (int i = 0; i < panel; ++i)  // a pair is a word of memory
      for (std::int64_t k = 0; k < depths; k += 2) {
        std::uint32_t pair;
        std::memcpy(&pair, base + i * s.item_stride + k, 4);
        const std::uint32_t low = (pair << 16) & 0x7fff0000u, high = pair & 0x7fff0000u;
        largest = low > largest ? low : largest;
        largest = high > largest ? high : largest;
        std::memcpy(out + k * panel + 2 * i, &pair, 4);
      }
    return largest;
  }
  if (whole_pairs && s.item_stride == 1) {
    for (std::int64_t k = 0; k < depths; k += 2) {  // whole pairs of two rows of memory: one word per item
      const std::uint16_t *first = base + k * s.depth_stride, *second = first + s.depth_stride;
      for (int i = 0; i < panel; ++i) {
        const std::uint32_t pair = std::uint32_t(first[i]) | std::uint32_t(second[i]) << 16;
        const std::uint32_t low = (pair << 16) & 0x7fff0000u, high = pair & 0x7fff0000u;
        largest = low > largest ? low : largest;
        largest = high > largest ? high : largest;
        std::memcpy(out + k * panel + 2 * i, &pair, 4);
      }
    }
    return largest;
  }
  if (count < panel || padded > depths) std::memset(out, 0, 2 * std::size_t(panel * padded));
  for (std::int64_t k0 = 0; k0 < depths; k0 += group) {
    const std::int64_t here = depths - k0 < group ? depths - k0 : group;
    for (int i0 = 0; i0 < count; i0 += sub) {
      std::uint16_t* block = out + k0 * panel + i0 * group;
      const int items = count - i0 < sub ? count - i0 : sub;
      for (std::int64_t k = 0; k < here; ++k)
        for (int i = 0; i < items; ++i) {
          const std::uint16_t v = base[(i0 + i) * s.item_stride + (k0 + k) * s.depth_stride];
          const std::uint32_t magnitude = std::uint32_t(v & 0x7fffu) << 16;
          largest = magnitude > largest ? magnitude : largest;
          block[i * group + k] = v;
        }
    }
  }
  return largest;
}

inline std::uint32_t pack_panel(TileOperand kind, const TileSource& s, std::int64_t item, int count,
                                int panel, bool rows, std::int64_t depth, std::int64_t depths, char* out) {
  if (kind == TileOperand::kFloat32) {
    auto* to = reinterpret_cast<float*>(out);
    if (s.dtype == kFloat16) return pack_panel_float<LoadFloat16>(s, item, count, panel, depth, depths, to);
    if (s.dtype == kBFloat16) return pack_panel_float<LoadBf16>(s, item, count, panel, depth, depths, to);
    return pack_panel_float<LoadFloat32>(s, item, count, panel, depth, depths, to);
  }
  const bool amx_rows = kind == TileOperand::kAmxBf16 && rows;
  std::int64_t span = depths;
  if (kind == TileOperand::kAmxBf16) span = round_up(depths, 32);  // AMX multiplies 32 depths at a time
  auto* to = reinterpret_cast<std::uint16_t*>(out);
  if (span > depths) std::memset(to, 0, 2 * std::size_t(panel * span));
  return pack_panel_bf16(s, item, count, panel, amx_rows ? 32 : 2, amx_rows ? 16 : panel, depth, depths, to);
}

// Packs items [first, first + count) over `depth` depths into `out` (packed_bytes, 64-byte aligned).
// Returns the largest magnitude, NaN or infinity if any source value is not finite.
inline float pack_items(TileOperand kind, const TileSource& source, bool rows, std::int64_t first,
                        std::int64_t count, std::int64_t depth, void* out) {
  const int panel = rows ? tile_rows(kind) : tile_columns(kind);
  const std::int64_t padded = padded_depth(kind, depth), block = tile_depth(kind);
  const std::int64_t element = kind == TileOperand::kFloat32 ? 4 : 2;
  std::uint32_t largest = 0;
  char* to = static_cast<char*>(out);
  for (std::int64_t k = 0; k < depth; k += block) {
    const std::int64_t depths = depth - k < block ? depth - k : block;
    const std::int64_t held = padded - k < block ? padded - k : block;
    for (std::int64_t i = 0; i < count; i += panel, to += held * panel * element) {
      const int here = count - i < panel ? int(count - i) : panel;
      const std::uint32_t found = pack_panel(kind, source, first + i, here, panel, rows, k, depths, to);
      largest = found > largest ? found : largest;
    }
  }
  return float_of_bits(largest);
}

inline float pack_rows(TileOperand kind, const TileSource& source, std::int64_t first, std::int64_t count,
                       std::int64_t depth, void* out) {
  return pack_items(kind, source, true, first, count, depth, out);
}
inline float pack_columns(TileOperand kind, const TileSource& source, std::int64_t first, std::int64_t count,
                          std::int64_t depth, void* out) {
  return pack_items(kind, source, false, first, count, depth, out);
}

PYLOC_NAMESPACE_END
