// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Feature maps as the sweeps read them: float32, channels last, so that a tap is a run of memory (with 16
// channels one cache line), within a border of one cell of zeros, so that no tap has to be asked whether it
// lies in the map.
#pragma once

#include "cpu/load_rows.h"
#include "cpu/slot_pool.h"
#include "cpu/store_rows.h"
#include "cpu/transpose.h"
#include "runtime/thread_pool.h"

PYLOC_NAMESPACE_BEGIN

// A map (C, H, W) in the caller's memory, beginning at element `first`.
struct PlanarMap {
  const void* data;
  int dtype;
  std::int64_t first, channels, height, width;
};

// Floats of a cell: the channels, and zeros up to whole packs.
PYLOC_INLINE std::int64_t cell_floats(std::int64_t channels) { return round_up(channels, PackF::kWidth); }

// Row y to cells one after the other. `memory`: cell_floats(C) * round_up(W, PackF::kWidth) floats.
inline void pack_cells(const PlanarMap& map, std::int64_t y, float* memory, float* to) {
  constexpr int W = PackF::kWidth;
  const std::int64_t stride = cell_floats(map.channels), ld = round_up(map.width, W);
  for (std::int64_t c = 0; c < map.channels; ++c)
    load_floats(map.dtype, map.data, map.first + (c * map.height + y) * map.width, map.width,
                memory + c * ld);
  std::memset(memory + map.channels * ld, 0, sizeof(float) * std::size_t((stride - map.channels) * ld));
  for (std::int64_t x = 0; x < map.width; x += W)
    for (std::int64_t c = 0; c < stride; c += W) {
      PackF rows[W];
      for (int i = 0; i < W; ++i) rows[i] = PackF::load(memory + (c + i) * ld + x);
      transpose_groups<W>(rows);
      const int count = map.width - x < W ? int(map.width - x) : W;
      for (int i = 0; i < count; ++i) rows[i].store(to + (x + i) * stride + c);
    }
}

// The way back: cells one after the other to row y of a map (C, H, W) of any feature dtype.
inline void unpack_cells(const float* cells, const PlanarMap& map, std::int64_t y, float* memory, void* to) {
  constexpr int W = PackF::kWidth;
  const std::int64_t stride = cell_floats(map.channels), ld = round_up(map.width, W);
  for (std::int64_t x = 0; x < map.width; x += W)
    for (std::int64_t c = 0; c < stride; c += W) {
      PackF rows[W];
      const int count = map.width - x < W ? int(map.width - x) : W;
      for (int i = 0; i < W; ++i)
        rows[i] = i < count ? PackF::load(cells + (x + i) * stride + c) : PackF(0.0f);
      transpose_groups<W>(rows);
      for (int i = 0; i < W; ++i) rows[i].store(memory + (c + i) * ld + x);
    }
  for (std::int64_t c = 0; c < map.channels; ++c)
    store_row(map.dtype, memory + c * ld, map.width, to, map.first + (c * map.height + y) * map.width, 1);
}

// Layout of a packed map with its border.
struct BorderedMap {
  std::int64_t stride, pitch, rows;  // floats per cell, cells per row, rows

  BorderedMap(std::int64_t channels, std::int64_t height, std::int64_t width)
      : stride(cell_floats(channels)), pitch(width + 2), rows(height + 2) {}
  std::int64_t row_floats() const { return pitch * stride; }
  std::int64_t floats() const { return rows * row_floats(); }
  float* row(float* map, std::int64_t y) const { return map + ((y + 1) * pitch + 1) * stride; }

  // Row y of the map, and its share of the border.
  void pack(const PlanarMap& from, std::int64_t y, float* memory, float* map) const {
    const auto clear = [](float* p, std::int64_t count) { std::memset(p, 0, 4 * std::size_t(count)); };
    if (y == 0) clear(map, row_floats());
    if (y == from.height - 1) clear(map + (rows - 1) * row_floats(), row_floats());
    float* cells = row(map, y);
    clear(cells - stride, stride);
    clear(cells + from.width * stride, stride);
    pack_cells(from, y, memory, cells);
  }
};

// Calls fn(chunk, memory of `floats` floats) for every chunk; false when memory ran out.
template <class Fn>
bool run_chunks(std::int64_t chunks, int num_threads, std::int64_t floats, const Fn& fn) {
  if (chunks == 0) return true;
  const int wanted = num_threads > 0 ? num_threads : runtime::default_num_threads();
  const std::int64_t most = chunks < SlotPool::kMax ? chunks : SlotPool::kMax;
  const int threads = int(wanted < most ? wanted : most);
  const std::int64_t each = round_up(floats, 16);
  Scratch<float> memory(std::size_t(each * threads));
  if (!memory) return false;
  SlotPool pool(threads);
  runtime::parallel_for(chunks, threads, [&](std::int64_t chunk) {
    const int slot = pool.acquire();
    fn(chunk, memory.data() + slot * each);
    pool.release(slot);
  });
  return true;
}

PYLOC_NAMESPACE_END
