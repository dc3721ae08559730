// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What both directions of gated attention are made of: operands packed for tile_product.h, and tiles of S
// with one query per SIMD lane.
//
// A tile is transposed, [key][query], kQueries queries wide: maxima and sums over keys are then plain
// vertical operations, and the tile of weights, copied panel by panel, already is the packed operand of the
// product with the values. Keys come in chunks of kKeys. Neither depends on the number of threads.
#pragma once

#include "cpu/gated_attention.h"
#include "cpu/row_softmax.h"
#include "cpu/slot_pool.h"
#include "cpu/tile_product.h"
#include "runtime/thread_pool.h"

PYLOC_NAMESPACE_BEGIN

using cpu::AttentionProblem;

constexpr int kQueries = kTileUnit;
constexpr std::int64_t kKeys = 128;
constexpr std::int64_t kTileHeight = 160;  // kKeys in whole panels of every kind of product
constexpr int kPanels = kQueries / kPanelColumns;

inline std::int64_t chunks_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }
inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

inline TileSource items_of(const void* data, int dtype, std::int64_t depth) {
  return {data, dtype, depth, 1};
}
inline TileSource depths_of(const void* data, int dtype, std::int64_t depth) {
  return {data, dtype, 1, depth};
}

// Rows [first, first + count) of a (count, depth) array per head, packed chunk by chunk: as items of `depth`
// depths, or, `across`, as `depth` items of one chunk's depths.
class PackedRows {
 public:
  PackedRows(TileOperand kind, std::int64_t heads, std::int64_t count, std::int64_t depth, bool across)
      : kind_(kind),
        count_(count),
        depth_(depth),
        across_(across),
        chunk_bytes_(round_up(
            packed_bytes(kind, across ? depth : kKeys, across ? kKeys : depth, tile_rows(kind)), 64)),
        data_(std::size_t(chunk_bytes_ * chunks_of(count, kKeys) * heads)) {}
  bool ok() const { return bool(data_); }
  const char* chunk(std::int64_t head, std::int64_t c) const {
    return data_.data() + (head * chunks_of(count_, kKeys) + c) * chunk_bytes_;
  }
  void pack(const void* array, int dtype, std::int64_t head, std::int64_t c, std::int64_t valid) {
    const std::int64_t first = c * kKeys, n = smaller(valid - first, kKeys);
    if (n <= 0) return;
    char* to = const_cast<char*>(chunk(head, c));
    const std::int64_t row = head * count_ + first, element = dtype == kFloat32 ? 4 : 2;
    const char* from = static_cast<const char*>(array) + row * depth_ * element;
    if (across_) {
      pack_rows(kind_, depths_of(from, dtype, depth_), 0, depth_, n, to);
    } else {
      pack_rows(kind_, items_of(from, dtype, depth_), 0, n, depth_, to);
    }
  }

 private:
  TileOperand kind_;
  std::int64_t count_, depth_;
  bool across_;
  std::int64_t chunk_bytes_;
  Scratch<char> data_;
};

// Row `i` of panel `p` of a tile, pack by pack: where it lies in the tile and in the packed operand.
PYLOC_INLINE float* tile_at(float* tile, std::int64_t key, int panel, int pack) {
  return tile + key * kQueries + panel * kPanelColumns + pack * PackF::kWidth;
}
PYLOC_INLINE float* packed_at(float* packed, std::int64_t keys, std::int64_t key, int panel, int pack) {
  return packed + (panel * keys + key) * kPanelColumns + pack * PackF::kWidth;
}

inline std::int64_t valid_keys(const AttentionProblem& problem, std::int64_t head) {
  return problem.num_valid ? problem.num_valid[head / problem.heads] : problem.n_keys;
}

// Packs an operand of every head in parallel.
inline void pack_all(const AttentionProblem& problem, int threads, const void* array, PackedRows& to) {
  const std::int64_t chunks = chunks_of(problem.n_keys, kKeys);
  runtime::parallel_for(problem.batch * problem.heads * chunks, threads, [&](std::int64_t t) {
    to.pack(array, problem.dtype, t / chunks, t % chunks, valid_keys(problem, t / chunks));
  });
}

inline int thread_limit(const AttentionProblem& problem) {
  const int threads = problem.num_threads > 0 ? problem.num_threads : runtime::default_num_threads();
  return threads < SlotPool::kMax ? threads : SlotPool::kMax;
}

PYLOC_INLINE float sigmoid(float x) {
  return x >= 0.0f ? 1.0f / (1.0f + std::exp(-x)) : std::exp(x) / (1.0f + std::exp(x));
}

PYLOC_NAMESPACE_END
