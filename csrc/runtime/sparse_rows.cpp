// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "runtime/sparse_rows.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace pyloc::runtime {

bool allocate_rows(std::int64_t count, SparseRows& rows) {
  rows = SparseRows{};
  const std::int64_t chunks = (count + SparseRows::kChunkRows - 1) / SparseRows::kChunkRows;
  auto* lengths = static_cast<std::int64_t*>(std::calloc(static_cast<std::size_t>(count) + 1, 8));
  auto* chunk =
      static_cast<SparseChunk*>(std::calloc(static_cast<std::size_t>(chunks) + 1, sizeof(SparseChunk)));
  if (!lengths || !chunk) {
    std::free(lengths);
    std::free(chunk);
    return false;
  }
  rows = SparseRows{count, chunks, lengths, chunk};
  return true;
}

void free_rows(SparseRows& rows) {
  for (std::int64_t c = 0; c < rows.chunks; ++c) {
    std::free(rows.chunk[c].cells);
    std::free(rows.chunk[c].gain);
  }
  std::free(rows.lengths);
  std::free(rows.chunk);
  rows = SparseRows{};
}

bool reserve_entries(SparseChunk& chunk, std::int64_t extra) {
  if (chunk.size + extra <= chunk.capacity) return true;
  const std::int64_t capacity = std::max<std::int64_t>(2 * chunk.capacity, chunk.size + extra);
  const auto bytes = static_cast<std::size_t>(capacity) * 4;
  auto* cells = static_cast<std::uint32_t*>(std::realloc(chunk.cells, bytes));
  if (!cells) return false;
  chunk.cells = cells;
  auto* gain = static_cast<float*>(std::realloc(chunk.gain, bytes));
  if (!gain) return false;
  chunk.gain = gain;
  chunk.capacity = capacity;
  return true;
}

std::int64_t total_entries(const SparseRows& rows) {
  std::int64_t total = 0;
  for (std::int64_t c = 0; c < rows.chunks; ++c) total += rows.chunk[c].size;
  return total;
}

void compress_rows(const SparseRows& rows, std::int64_t* row_ptr, std::uint32_t* cells, float* gain) {
  row_ptr[0] = 0;
  for (std::int64_t n = 0; n < rows.count; ++n) row_ptr[n + 1] = row_ptr[n] + rows.lengths[n];
  for (std::int64_t c = 0; c < rows.chunks; ++c) {
    const SparseChunk& chunk = rows.chunk[c];
    const auto bytes = static_cast<std::size_t>(chunk.size) * 4;
    if (bytes == 0) continue;
    const std::int64_t at = row_ptr[c * SparseRows::kChunkRows];
    std::memcpy(cells + at, chunk.cells, bytes);
    std::memcpy(gain + at, chunk.gain, bytes);
  }
}

}  // namespace pyloc::runtime
