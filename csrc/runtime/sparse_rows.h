// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Rows of unknown length, written by many threads, then laid out as one compressed matrix.
// Rows come in chunks of kChunkRows; one thread at a time owns a chunk and appends its rows in order.
#pragma once

#include <cstdint>

namespace pyloc::runtime {

struct SparseChunk {
  std::uint32_t* cells;  // (row << 16) | column: in memory the two int16 (column, row) of LossMaps.xy
  float* gain;
  std::int64_t size, capacity;
};

struct SparseRows {
  static constexpr std::int64_t kChunkRows = 16;
  std::int64_t count, chunks;
  std::int64_t* lengths;  // (count)
  SparseChunk* chunk;     // (chunks)
};

// False when memory ran out; `rows` is then empty, and free_rows may still be called.
bool allocate_rows(std::int64_t count, SparseRows& rows);
void free_rows(SparseRows& rows);
// Room for `extra` more entries in a chunk.
bool reserve_entries(SparseChunk& chunk, std::int64_t extra);
std::int64_t total_entries(const SparseRows& rows);
// row_ptr (count + 1), cells (total), gain (total).
void compress_rows(const SparseRows& rows, std::int64_t* row_ptr, std::uint32_t* cells, float* gain);

}  // namespace pyloc::runtime
