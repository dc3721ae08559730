// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The matrix product under every correlation: descriptors (N, D) by the cells of a feature map (D, H, W),
// a tile of rows by cells at a time, into memory that is used again for the next tile.
//
//   const TileOperand kind = tile_operand(descriptor_dtype, feature_dtype);
//   pack_rows(kind, descriptors, first_row, n_rows, D, rows);          // tile_pack.h
//   pack_columns(kind, features, first_cell, n_cells, D, cells);
//   tile_product(kind, rows, n_rows, cells, n_cells, D, tile, ld);
//   tile[r * ld + c] = <descriptor r, cell c>, accumulated in float32, unscaled (+= with add)
//
// Contract: `rows` and `cells` are 64-byte aligned buffers of packed_bytes(kind, count, D, tile_rows(kind) or
// tile_columns(kind)) bytes; `tile` is 64-byte aligned, has round_up(n_rows, tile_rows(kind)) rows, and ld is
// a multiple of kTileUnit and at least round_up(n_cells, kTileUnit). Whole panels are written: entries
// beyond n_rows or n_cells become 0. What an entry holds depends only on the two vectors and on `kind`, not
// on where in the tile they lie, so every blocking and thread count gives the same bits. Any D >= 1.
// Blocks of kTileCells cells by kTileRows descriptors keep the packed cells and the tile in the second-level
// cache. Measured against Eigen's product in benchmarks/results.
#pragma once

#include "cpu/tile_pack.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kTileUnit = 96;                            // a multiple of tile_columns of every kind
constexpr int kTileCells = 768;                          // cells of one tile
constexpr int kTileRows = 64 / kPanelRows * kPanelRows;  // rows of one tile

// Accumulators in registers over one block of depths: kPanelRows rows by kPanelVectors vectors of cells.
// `begin` starts from zero, otherwise from what the tile holds.
static inline __attribute__((noinline)) void panel_product_float(std::int64_t depths, const float* rows,
                                                                 const float* cells, bool begin, float* tile,
                                                                 std::int64_t ld) {
  using V = PackF::Raw;
  constexpr int W = PackF::kWidth;
  V sum[kPanelRows][kPanelVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kPanelRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j)
      sum[i][j] = begin ? V{} : *reinterpret_cast<const V*>(tile + i * ld + j * W);
  for (std::int64_t k = 0; k < depths; ++k, rows += kPanelRows, cells += kPanelColumns) {
    V cell[kPanelVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j) cell[j] = *reinterpret_cast<const V*>(cells + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < kPanelRows; ++i) {
      const V row = rows[i] - V{};
#pragma GCC unroll 4
      for (int j = 0; j < kPanelVectors; ++j) sum[i][j] += row * cell[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPanelRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j) *reinterpret_cast<V*>(tile + i * ld + j * W) = sum[i][j];
}

#if defined(__AVX512F__)
// The same on pairs of bfloat16 (depths counts elements, even).
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"), noinline)) static inline void
panel_product_dot(std::int64_t depths, const std::uint16_t* rows, const std::uint16_t* cells, bool begin,
                  float* tile, std::int64_t ld) {
  __m512 sum[kPanelRows][kPanelVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kPanelRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j)
      sum[i][j] = begin ? _mm512_setzero_ps() : _mm512_load_ps(tile + i * ld + j * 16);
  for (std::int64_t k = 0; k < depths; k += 2, rows += 2 * kPanelRows, cells += 2 * kPanelColumns) {
    __m512bh cell[kPanelVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j) cell[j] = (__m512bh)_mm512_load_si512(cells + 32 * j);
#pragma GCC unroll 8
    for (int i = 0; i < kPanelRows; ++i) {
      std::int32_t pair;
      std::memcpy(&pair, rows + 2 * i, 4);
      const __m512bh row = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int j = 0; j < kPanelVectors; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row, cell[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPanelRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j) _mm512_store_ps(tile + i * ld + j * 16, sum[i][j]);
}

// 32 rows by 32 cells in four AMX accumulators; rows packed as two tiles of 16 x 32 per 32 depths, cells as
// pairs of depths. The eight tile registers: 0 to 3 sums, 4 and 5 rows, 6 and 7 cells.
__attribute__((target("avx512f,amx-tile,amx-bf16"), noinline)) static inline void panel_product_amx(
    std::int64_t depths, const std::uint16_t* rows, const std::uint16_t* cells, bool begin, float* tile,
    std::int64_t ld) {
  float* low = tile + 16 * ld;
  const std::int64_t step = ld * 4;
  if (begin) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, tile, step);
    _tile_loadd(1, tile + 16, step);
    _tile_loadd(2, low, step);
    _tile_loadd(3, low + 16, step);
  }
  for (std::int64_t k = 0; k < depths; k += 32, rows += 32 * 32, cells += 32 * 32) {
    _tile_loadd(4, rows, 64);
    _tile_loadd(5, rows + 16 * 32, 64);
    _tile_loadd(6, cells, 128);
    _tile_loadd(7, cells + 32, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, step);
  _tile_stored(1, tile + 16, step);
  _tile_stored(2, low, step);
  _tile_stored(3, low + 16, step);
}

// All eight registers 16 rows of 64 bytes; the state is the thread's and is given back after each product.
__attribute__((target("amx-tile"))) static inline void configure_amx() {
  alignas(64) std::uint8_t config[64] = {};
  config[0] = 1;
  for (int i = 0; i < 8; ++i) {
    config[16 + 2 * i] = 64;
    config[48 + i] = 16;
  }
  _tile_loadconfig(config);
}
__attribute__((target("amx-tile"))) static inline void release_amx() { _tile_release(); }
#endif

static inline void panel_product(TileOperand kind, std::int64_t depths, const char* rows, const char* cells,
                                 bool begin, float* tile, std::int64_t ld) {
#if defined(__AVX512F__)
  const auto* rows16 = reinterpret_cast<const std::uint16_t*>(rows);
  const auto* cells16 = reinterpret_cast<const std::uint16_t*>(cells);
  if (kind == TileOperand::kDotBf16) return panel_product_dot(depths, rows16, cells16, begin, tile, ld);
  if (kind == TileOperand::kAmxBf16) return panel_product_amx(depths, rows16, cells16, begin, tile, ld);
#endif
  (void)kind;
  panel_product_float(depths, reinterpret_cast<const float*>(rows), reinterpret_cast<const float*>(cells),
                      begin, tile, ld);
}

// Depth blocks outermost, so that one panel of cells stays in the first-level cache over all rows.
static inline void tile_product(TileOperand kind, const void* rows, std::int64_t n_rows, const void* cells,
                                std::int64_t n_cells, std::int64_t depth, float* tile, std::int64_t ld,
                                bool add = false) {
  const std::int64_t panel_rows = tile_rows(kind), panel_cells = tile_columns(kind);
  const std::int64_t padded = padded_depth(kind, depth), block = tile_depth(kind);
  const std::int64_t element = kind == TileOperand::kFloat32 ? 4 : 2;
  const char* row_block = static_cast<const char*>(rows);
  const char* cell_panel = static_cast<const char*>(cells);
#if defined(__AVX512F__)
  if (kind == TileOperand::kAmxBf16) configure_amx();
#endif
  for (std::int64_t k = 0; k < padded; k += block) {
    const std::int64_t depths = padded - k < block ? padded - k : block;
    for (std::int64_t c = 0; c < n_cells; c += panel_cells, cell_panel += depths * panel_cells * element)
      for (std::int64_t r = 0; r < n_rows; r += panel_rows)
        panel_product(kind, depths, row_block + r * depths * element, cell_panel, k == 0 && !add,
                      tile + r * ld + c, ld);
    row_block += round_up(n_rows, panel_rows) * depths * element;
  }
#if defined(__AVX512F__)
  if (kind == TileOperand::kAmxBf16) release_amx();
#endif
}

PYLOC_NAMESPACE_END
