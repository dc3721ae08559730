// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The loops of correlation_stream.h: bands in order, chunks of rows in parallel, tiles in the cache.
#pragma once

#include "cpu/correlation_stream.h"

PYLOC_NAMESPACE_BEGIN

inline double CorrelationStream::bound() const {
  double sum = 0.0;
  for (int i = 0; i < problem_.n_levels; ++i)
    sum += double(levels_[i].largest_row) * double(levels_[i].largest_cell) * double(levels_[i].in.depth);
  return sum;
}

inline int CorrelationStream::status() const {
  for (int i = 0; i < problem_.n_levels; ++i)
    if (!isfinite_(levels_[i].largest_cell)) return cpu::kFeaturesNotFinite + 8 * i;
  return bound() < 1e37 ? cpu::kCorrelationDone : cpu::kProductsTooLarge;
}

// The band's rows of a level that is not native, at the map's width: [row of the chunk][source row][column].
// Returns the end of what it wrote.
inline float* CorrelationStream::resize_level(const Level& level, std::int64_t chunk, std::int64_t n_rows,
                                              float* coarse, float* to) {
  const CorrelationLevel& in = level.in;
  const std::int64_t n_cells = level.n_rows * in.width, ld = round_up(n_cells, kTileCells);
  for (std::int64_t c = 0; c < n_cells; c += kTileCells)
    tile_product(level.kind, level.rows + chunk * level.chunk_bytes, n_rows,
                 level.cells + c / kTileCells * level.block_bytes,
                 n_cells - c < kTileCells ? n_cells - c : kTileCells, in.depth, coarse + c, ld);
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t s = 0; s < level.n_rows; ++s, to += padded_width())
      resize_columns(coarse + r * ld + s * in.width, level.taps, padded_width(), in.width <= problem_.width,
                     to);
  return to;
}

// Adds a resized level to the tile of the cells [begin, end).
inline void CorrelationStream::add_resized(const Level& level, const float* resized, std::int64_t n_rows,
                                           std::int64_t begin, std::int64_t end, float* tile) {
  const std::int64_t width = problem_.width, row_floats = level.n_rows * padded_width();
  for (std::int64_t cell = begin; cell < end;) {
    const std::int64_t y = cell / width, x = cell % width;
    const std::int64_t n = end - cell < width - x ? end - cell : width - x;
    const Tap tap = interpolation_tap(y, problem_.height, level.in.height);
    const float* low = resized + (tap.low - level.first_row) * padded_width() + x;
    const float* high = resized + (tap.high - level.first_row) * padded_width() + x;
    for (std::int64_t r = 0; r < n_rows; ++r)
      add_mixed_rows(low + r * row_floats, high + r * row_floats, tap.weight, n,
                     tile + r * kTileCells + (cell - begin));
    cell += n;
  }
}

template <class Sink>
void CorrelationStream::run_chunk(std::int64_t chunk, std::int64_t begin, std::int64_t end, float* memory,
                                  Sink& sink) {
  const std::int64_t row = chunk * chunk_rows_;
  const std::int64_t n_rows = count_ - row < chunk_rows_ ? count_ - row : chunk_rows_;
  float* const tile = memory + coarse_floats_;
  float* const first_resized = memory + slot_floats_ - resized_floats_;
  const float* resized[kMaxLevels] = {};
  float* next = first_resized;
  for (int i = 0; i < problem_.n_levels; ++i)
    if (!levels_[i].native) {
      resized[i] = next;
      next = resize_level(levels_[i], chunk, n_rows, memory, next);
    }
  for (std::int64_t at = begin; at < end; at += kTileCells) {
    const std::int64_t n = end - at < kTileCells ? end - at : kTileCells;
    bool started = false;
    for (int i = 0; i < problem_.n_levels; ++i) {
      const Level& level = levels_[i];
      if (!level.native) continue;
      tile_product(level.kind, level.rows + chunk * level.chunk_bytes, n_rows,
                   level.cells + (at - begin) / kTileCells * level.block_bytes, n, level.in.depth, tile,
                   kTileCells, started);
      started = true;
    }
    if (!started) std::memset(tile, 0, sizeof(float) * std::size_t(n_rows * kTileCells));
    for (int i = 0; i < problem_.n_levels; ++i)
      if (!levels_[i].native) add_resized(levels_[i], resized[i], n_rows, at, at + n, tile);
    for (std::int64_t r = 0; r < n_rows; ++r) sink.visit(first_ + row + r, tile + r * kTileCells, n, at);
  }
}

template <class Sink>
int CorrelationStream::run(Sink& sink) {
  const std::int64_t chunks = (count_ + chunk_rows_ - 1) / chunk_rows_;
  SlotPool pool(threads_);
  for (std::int64_t begin = 0; begin < cells(); begin += band_cells_) {
    const std::int64_t end = cells() - begin < band_cells_ ? cells() : begin + band_cells_;
    pack_band(begin, end);
    if (const int bad = status()) return bad;
    runtime::parallel_for(chunks, threads_, [&](std::int64_t chunk) {
      const int slot = pool.acquire();
      run_chunk(chunk, begin, end, slots_ + slot * slot_floats_, sink);
      pool.release(slot);
    });
  }
  return cpu::kCorrelationDone;
}

PYLOC_NAMESPACE_END
