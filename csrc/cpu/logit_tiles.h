// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Tiles of correlations <h_n, F(p)> and the products that gradients make of such tiles: float32 on the packed
// panels of tile_product.h, float64 on plain copies.
#pragma once

#include "cpu/correlation_problem.h"
#include "cpu/tile_product.h"

PYLOC_NAMESPACE_BEGIN

// Distance of a tile's rows in elements: an odd number of 128-byte units, so that the rows' neighbours in a
// column do not fall into the same few sets of the first-level cache.
constexpr std::int64_t kLogitStride = kTileCells + kTileUnit;
static_assert(kTileRows % kPanelRows == 0 && kLogitStride % kTileUnit == 0);

template <class T>
constexpr std::int64_t kPackColumns = kPanelVectors * Pack<T>::kWidth;

struct LoadFloat64 {
  using Element = double;
  static PYLOC_INLINE double load(const double* p) { return *p; }
};

// Calls fn with the loader of a dtype.
template <class T, class Fn>
inline void with_loader(int dtype, const Fn& fn) {
  if constexpr (sizeof(T) == 8) return fn(LoadFloat64{});
  if (dtype == kFloat16) return fn(LoadFloat16{});
  if (dtype == kBFloat16) return fn(LoadBf16{});
  fn(LoadFloat32{});
}

// out[r][c] += sum over k < depth of a[r * kRow + k * a_step] * b[k * b_step + c], kPanelRows rows by V
// vectors of columns, a block of depths in registers at a time.
template <std::int64_t kRow, int V, class T>
static inline __attribute__((noinline)) void add_panel(std::int64_t depth, const T* a, std::int64_t a_step,
                                                       const T* b, std::int64_t b_step, T* out,
                                                       std::int64_t out_step) {
  constexpr int W = Pack<T>::kWidth;
  Pack<T> sum[kPanelRows][V];
#pragma GCC unroll 8
  for (int i = 0; i < kPanelRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) sum[i][j] = Pack<T>(T(0));
  for (std::int64_t k = 0; k < depth; ++k, a += a_step, b += b_step) {
    Pack<T> column[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) column[j] = Pack<T>::load(b + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < kPanelRows; ++i) {
      const Pack<T> row(a[i * kRow]);
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) sum[i][j] = fma_(row, column[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPanelRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      T* at = out + i * out_step + j * W;
      (Pack<T>::load(at) + sum[i][j]).store(at);
    }
}

// The same for the `width` columns (whole vectors, at most kPackColumns) that remain.
template <std::int64_t kRow, class T>
inline void add_columns(std::int64_t width, std::int64_t depth, const T* a, std::int64_t a_step, const T* b,
                        std::int64_t b_step, T* out, std::int64_t out_step) {
  constexpr int W = Pack<T>::kWidth;
  static_assert(kPanelVectors <= 3);
  if (width > 2 * W) return add_panel<kRow, kPanelVectors>(depth, a, a_step, b, b_step, out, out_step);
  if (width > W) return add_panel<kRow, 2>(depth, a, a_step, b, b_step, out, out_step);
  add_panel<kRow, 1>(depth, a, a_step, b, b_step, out, out_step);
}

// A block of cells by depths, transposed: panels of kPackColumns depths, in each panel cell after cell.
template <class T>
struct CellsByDepth {
  static constexpr std::int64_t kPanel = kTileCells * kPackColumns<T>;
  static std::int64_t size(std::int64_t depth) { return round_up(depth, kPackColumns<T>) * kTileCells; }

  static void pack(const TileSource& source, std::int64_t first, std::int64_t count, std::int64_t depth,
                   T* out) {
    with_loader<T>(source.dtype, [&](auto load) {
      using Load = decltype(load);
      const auto* from = static_cast<const typename Load::Element*>(source.data) + first * source.item_stride;
      for (std::int64_t d0 = 0; d0 < depth; d0 += kPackColumns<T>, out += kPanel) {
        const std::int64_t n = depth - d0 < kPackColumns<T> ? depth - d0 : kPackColumns<T>;
        if (n < kPackColumns<T>) std::memset(out, 0, sizeof(T) * std::size_t(count * kPackColumns<T>));
        for (std::int64_t p = 0; p < count; ++p)
          for (std::int64_t d = 0; d < n; ++d)
            out[p * kPackColumns<T> + d] =
                Load::load(from + p * source.item_stride + (d0 + d) * source.depth_stride);
      }
    });
  }

  // sums (rows, stride) += tile (rows, cells) times the block.
  static void add_product(const T* tile, std::int64_t rows, const T* block, std::int64_t cells,
                          std::int64_t depth, T* sums, std::int64_t stride) {
    constexpr std::int64_t kCells = 96;  // of a panel: it stays in the first-level cache for all rows
    for (std::int64_t p = 0; p < cells; p += kCells) {
      const std::int64_t n = cells - p < kCells ? cells - p : kCells;
      for (std::int64_t d = 0; d < depth; d += kPackColumns<T>)
        for (std::int64_t r = 0; r < rows; r += kPanelRows)
          add_columns<kLogitStride>(depth - d, n, tile + r * kLogitStride + p, 1,
                                    block + d * kTileCells + p * kPackColumns<T>, kPackColumns<T>,
                                    sums + r * stride + d, stride);
    }
  }
};

// sums (depth rounded up to kPanelRows, kLogitStride) += weighted (rows, stride)^T times tile (rows, cells).
template <class T>
inline void add_transposed_product(const T* weighted, std::int64_t stride, const T* tile, std::int64_t rows,
                                   std::int64_t cells, std::int64_t depth, T* sums) {
  for (std::int64_t p = 0; p < cells; p += kPackColumns<T>)
    for (std::int64_t d = 0; d < depth; d += kPanelRows)
      add_columns<1>(cells - p, rows, weighted + d, stride, tile + p, kLogitStride,
                     sums + d * kLogitStride + p, kLogitStride);
}

// Packed operands and their product in float32. Chunks of kTileRows rows; blocks of kTileCells cells.
template <class T>
class LogitTiles {
 public:
  LogitTiles(const TileSource& descriptors, const TileSource& features, std::int64_t depth)
      : rows_(descriptors),
        cells_(features),
        depth_(depth),
        kind_(tile_operand(descriptors.dtype, features.dtype)) {}

  std::int64_t tile_height() const { return round_up(kTileRows, tile_rows(kind_)); }
  std::int64_t chunk_bytes() const { return packed_bytes(kind_, tile_height(), depth_, tile_rows(kind_)); }
  std::int64_t block_bytes() const { return packed_bytes(kind_, kTileCells, depth_, tile_columns(kind_)); }
  // Both give the largest magnitude, NaN or infinity if any value is not finite.
  double pack_chunk(std::int64_t first, std::int64_t count, void* out) const {
    return pack_rows(kind_, rows_, first, count, depth_, out);
  }
  double pack_block(std::int64_t first, std::int64_t count, void* out) const {
    return pack_columns(kind_, cells_, first, count, depth_, out);
  }
  // tile[r * kLogitStride + p]; rows up to a multiple of kPanelRows and cells up to whole vectors become 0.
  void product(const void* chunk, std::int64_t rows, const void* block, std::int64_t cells, T* tile) const {
    tile_product(kind_, chunk, rows, block, cells, depth_, tile, kLogitStride);
  }
  static constexpr double kLargest = 1e37;

 private:
  TileSource rows_, cells_;
  std::int64_t depth_;
  TileOperand kind_;
};

template <>
class LogitTiles<double> {
 public:
  LogitTiles(const TileSource& descriptors, const TileSource& features, std::int64_t depth)
      : rows_(descriptors), cells_(features), depth_(depth) {}

  std::int64_t tile_height() const { return kTileRows; }
  std::int64_t chunk_bytes() const { return kTileRows * depth_ * 8; }
  std::int64_t block_bytes() const { return kLogitStride * depth_ * 8; }
  double pack_chunk(std::int64_t first, std::int64_t count, void* out) const {
    return copy(rows_, first, count, kPanelRows, static_cast<double*>(out));
  }
  double pack_block(std::int64_t first, std::int64_t count, void* out) const {
    return copy(cells_, first, count, kLogitStride, static_cast<double*>(out));
  }
  void product(const void* chunk, std::int64_t rows, const void* block, std::int64_t cells,
               double* tile) const {
    const auto* a = static_cast<const double*>(chunk);
    const auto* b = static_cast<const double*>(block);
    std::memset(tile, 0, sizeof(double) * std::size_t(round_up(rows, kPanelRows) * kLogitStride));
    for (std::int64_t k = 0; k < depth_; k += 64) {
      const std::int64_t depths = depth_ - k < 64 ? depth_ - k : 64;
      for (std::int64_t p = 0; p < cells; p += kPackColumns<double>)
        for (std::int64_t r = 0; r < rows; r += kPanelRows)
          add_columns<1>(cells - p, depths, a + (r * depth_ + k * kPanelRows), kPanelRows,
                         b + k * kLogitStride + p, kLogitStride, tile + r * kLogitStride + p, kLogitStride);
    }
  }
  static constexpr double kLargest = 1e300;

 private:
  // Panels of `width` items, depth after depth; what is missing in the last panel is 0.
  double copy(const TileSource& source, std::int64_t first, std::int64_t count, std::int64_t width,
              double* out) const {
    const auto* from = static_cast<const double*>(source.data) + first * source.item_stride;
    double largest = 0.0;
    for (std::int64_t i0 = 0; i0 < count; i0 += width)
      for (std::int64_t k = 0; k < depth_; ++k, out += width) {
        const std::int64_t n = count - i0 < width ? count - i0 : width;
        for (std::int64_t i = 0; i < n; ++i) {
          out[i] = from[(i0 + i) * source.item_stride + k * source.depth_stride];
          if (!(abs_(out[i]) <= largest) && isfinite_(largest)) largest = abs_(out[i]);
        }
        for (std::int64_t i = n; i < width; ++i) out[i] = 0.0;
      }
    return largest;
  }

  TileSource rows_, cells_;
  std::int64_t depth_;
};

PYLOC_NAMESPACE_END
