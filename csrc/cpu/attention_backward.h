// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gradients of gated attention. With P = softmax(g S), D_i = <dO_i, O_i>, L_ij = P_ij (<dO_i, V_j> - D_i) the
// gradient of the logits g S, and t_i = sum_j L_ij S_ij that of the gate,
//   dV = P^T dO,   dS_ij = g_i L_ij + [j = best_i] g_i (1 - g_i) t_i,   dQ = scale dS K,   dK = scale dS^T Q;
// the maximum's gradient goes to the first key that has it. One pass over the keys per block of queries; the
// term of the maximum is one key per query and is added when t_i is known.
//
// A task owns a head's span of queries: it owns their dQ and sums dK and dV into arrays of its own, which are
// added in order. Spans follow from the shapes alone, so the bits do not depend on the number of threads.
#pragma once

#include "cpu/attention_tiles.h"

PYLOC_NAMESPACE_BEGIN

using cpu::AttentionGradients;

class AttentionBackward {
 public:
  AttentionBackward(const AttentionProblem& p, const AttentionGradients& g, int threads)
      : problem_(p),
        gradients_(g),
        heads_(p.batch * p.heads),
        spans_(span_count(p)),
        depth_(p.depth),
        value_depth_(p.value_depth),
        ld_(round_up(p.depth, kTileUnit)),
        value_ld_(round_up(p.value_depth, kTileUnit)),
        keys_(kFloat, heads_, p.n_keys, p.depth, false),
        keys_across_(kFloat, heads_, p.n_keys, p.depth, true),
        values_(kFloat, heads_, p.n_keys, p.value_depth, false),
        slot_floats_(count_slot_floats()),
        slots_(std::size_t(slot_floats_ * threads)),
        partial_(std::size_t(heads_ * spans_ * partial_floats())) {}
  bool ok() const { return keys_.ok() && keys_across_.ok() && values_.ok() && slots_ && partial_; }
  void run(int threads);

 private:
  static constexpr TileOperand kFloat = TileOperand::kFloat32;
  static constexpr std::int64_t kSpanBlocks = 4;  // queries of a span, at least, in blocks
  static constexpr std::int64_t kTasks = 16;      // tasks wanted

  static std::int64_t span_count(const AttentionProblem& p) {
    const std::int64_t wanted = chunks_of(kTasks, p.batch * p.heads);
    const std::int64_t most = chunks_of(chunks_of(p.n_queries, kQueries), kSpanBlocks);
    return wanted < most ? wanted : most;
  }
  std::int64_t packed_floats(std::int64_t items, std::int64_t depth) const {
    return round_up(items, kPanelColumns) * depth;
  }
  std::int64_t count_slot_floats() const {
    const std::int64_t operands = packed_floats(kQueries, depth_) + packed_floats(kQueries, value_depth_) +
                                  packed_floats(depth_, kQueries) + packed_floats(value_depth_, kQueries);
    const std::int64_t tiles = 2 * kTileHeight * kQueries + kKeys * kQueries + kTileHeight * kQueries;
    return round_up(operands, 16) + 64 + tiles + round_up(depth_, kPanelRows) * kQueries;
  }
  // dK and dV of all keys, and rows that the last panel of a product may write beyond.
  std::int64_t partial_rows() const {
    return chunks_of(problem_.n_keys, kKeys) * kKeys + kTileHeight - kKeys;
  }
  std::int64_t partial_floats() const { return partial_rows() * (ld_ + value_ld_); }

  struct Block {
    std::int64_t row, n, head, valid;  // of N; queries of the block
    float *q_cells, *o_cells, *q_depths, *o_depths, *scores, *slopes, *packed, *rows, *d_query;
    alignas(64) float gate[kQueries], log_sum[kQueries], dot[kQueries], moment[kQueries];
  };
  void set_block(std::int64_t head, std::int64_t first, float* memory, Block& b) const;
  void run_span(std::int64_t task, float* memory);
  void run_chunk(Block& b, std::int64_t chunk, float* d_keys, float* d_values) const;
  void weigh(Block& b, std::int64_t keys) const;
  void finish_block(const Block& b, float* d_keys) const;
  void add_partials(std::int64_t head, std::int64_t chunk) const;
  float load(const void* array, std::int64_t i) const {
    if (problem_.dtype == kFloat32) return static_cast<const float*>(array)[i];
    const auto* half = static_cast<const std::uint16_t*>(array) + i;
    return problem_.dtype == kFloat16 ? LoadFloat16::load(half) : LoadBf16::load(half);
  }

  const AttentionProblem& problem_;
  const AttentionGradients& gradients_;
  std::int64_t heads_, spans_, depth_, value_depth_, ld_, value_ld_;
  PackedRows keys_, keys_across_, values_;
  std::int64_t slot_floats_;
  Scratch<float> slots_, partial_;
};

inline void AttentionBackward::set_block(std::int64_t head, std::int64_t first, float* memory,
                                         Block& b) const {
  b.head = head;
  b.valid = valid_keys(problem_, head);
  b.n = smaller(problem_.n_queries - first, kQueries);
  b.row = head * problem_.n_queries + first;
  const auto take = [&](std::int64_t floats) {
    float* at = memory;
    memory += round_up(floats, 16);
    return at;
  };
  b.q_cells = take(packed_floats(kQueries, depth_));
  b.o_cells = take(packed_floats(kQueries, value_depth_));
  b.q_depths = take(packed_floats(depth_, kQueries));
  b.o_depths = take(packed_floats(value_depth_, kQueries));
  b.scores = take(kTileHeight * kQueries);
  b.slopes = take(kTileHeight * kQueries);
  b.packed = take(kKeys * kQueries);
  b.rows = take(kTileHeight * kQueries);
  b.d_query = take(round_up(depth_, kPanelRows) * kQueries);
  const std::int64_t element = problem_.dtype == kFloat32 ? 4 : 2;
  const char* q = static_cast<const char*>(problem_.queries) + b.row * depth_ * element;
  const float* o = gradients_.d_out + b.row * value_depth_;
  pack_columns(kFloat, items_of(q, problem_.dtype, depth_), 0, b.n, depth_, b.q_cells);
  pack_columns(kFloat, items_of(o, kFloat32, value_depth_), 0, b.n, value_depth_, b.o_cells);
  pack_columns(kFloat, depths_of(q, problem_.dtype, depth_), 0, depth_, b.n, b.q_depths);
  pack_columns(kFloat, depths_of(o, kFloat32, value_depth_), 0, value_depth_, b.n, b.o_depths);
  const float* out = gradients_.forward.out + b.row * value_depth_;
  for (std::int64_t i = 0; i < kQueries; ++i) {
    b.gate[i] = b.dot[i] = b.moment[i] = 0.0f;
    b.log_sum[i] = 100.0f;  // lanes without a query: weights that are nothing
    if (i >= b.n) continue;
    b.gate[i] = sigmoid(gradients_.forward.peak[b.row + i]);
    b.log_sum[i] = gradients_.forward.log_sum[b.row + i];
    double dot = 0.0;
    for (std::int64_t c = 0; c < value_depth_; ++c)
      dot += double(o[i * value_depth_ + c]) * out[i * value_depth_ + c];
    b.dot[i] = float(dot);
  }
}

// In: S / scale and <dO, V>. Out: P in `scores`, g L in `slopes` and packed; adds to t.
inline void AttentionBackward::weigh(Block& b, std::int64_t keys) const {
  const PackF scale{float(problem_.scale)}, log2e(1.44269504088896f), zero(0.0f);
  for (int p = 0; p < kPanels; ++p)
    for (int q = 0; q < kPanelVectors; ++q) {
      const int at = p * kPanelColumns + q * PackF::kWidth;
      const PackF gate = PackF::load(b.gate + at), dot = PackF::load(b.dot + at);
      const PackF floor = PackF::load(b.log_sum + at) * log2e, factor = gate * scale * log2e;
      PackF moment = PackF::load(b.moment + at);
      for (std::int64_t j = 0; j < keys; ++j) {
        float *score = tile_at(b.scores, j, p, q), *slope = tile_at(b.slopes, j, p, q);
        const PackF s = PackF::load(score);
        const PackF weight = exp2_nonpositive_(min_(fma_(s, factor, -floor), zero));
        const PackF logit = weight * (PackF::load(slope) - dot);
        moment = fma_(logit, s * scale, moment);
        weight.store(score);
        const PackF d = gate * logit;
        d.store(slope);
        d.store(packed_at(b.packed, keys, j, p, q));
      }
      moment.store(b.moment + at);
    }
}

inline void AttentionBackward::run_chunk(Block& b, std::int64_t chunk, float* d_keys, float* d_values) const {
  const std::int64_t first = chunk * kKeys, keys = smaller(b.valid - first, kKeys);
  tile_product(kFloat, keys_.chunk(b.head, chunk), keys, b.q_cells, b.n, depth_, b.scores, kQueries);
  tile_product(kFloat, values_.chunk(b.head, chunk), keys, b.o_cells, b.n, value_depth_, b.slopes, kQueries);
  weigh(b, keys);
  tile_product(kFloat, keys_across_.chunk(b.head, chunk), depth_, b.packed, kQueries, keys, b.d_query,
               kQueries, chunk > 0);
  pack_rows(kFloat, {b.scores, kFloat32, kQueries, 1}, 0, keys, b.n, b.rows);
  tile_product(kFloat, b.rows, keys, b.o_depths, value_depth_, b.n, d_values + first * value_ld_, value_ld_,
               true);
  pack_rows(kFloat, {b.slopes, kFloat32, kQueries, 1}, 0, keys, b.n, b.rows);
  tile_product(kFloat, b.rows, keys, b.q_depths, depth_, b.n, d_keys + first * ld_, ld_, true);
}

// The term of the maximum, and dQ.
inline void AttentionBackward::finish_block(const Block& b, float* d_keys) const {
  const float scale = float(problem_.scale);
  for (std::int64_t i = 0; i < b.n; ++i) {
    const std::int64_t best = gradients_.forward.best[b.row + i];
    const float share = b.gate[i] * (1.0f - b.gate[i]) * b.moment[i];
    const std::int64_t key = (b.head * problem_.n_keys + best) * depth_, query = (b.row + i) * depth_;
    for (std::int64_t c = 0; c < depth_; ++c) {
      gradients_.d_queries[query + c] =
          scale * (b.d_query[c * kQueries + i] + share * load(problem_.keys, key + c));
      d_keys[best * ld_ + c] += share * load(problem_.queries, query + c);
    }
  }
}

inline void AttentionBackward::run_span(std::int64_t task, float* memory) {
  const std::int64_t head = task / spans_, span = task % spans_;
  const std::int64_t blocks = chunks_of(problem_.n_queries, kQueries);
  float* d_keys = partial_.data() + task * partial_floats();
  float* d_values = d_keys + partial_rows() * ld_;
  std::memset(d_keys, 0, sizeof(float) * std::size_t(partial_floats()));
  Block b;
  for (std::int64_t k = span * blocks / spans_; k < (span + 1) * blocks / spans_; ++k) {
    set_block(head, k * kQueries, memory, b);
    for (std::int64_t c = 0; c * kKeys < b.valid; ++c) run_chunk(b, c, d_keys, d_values);
    finish_block(b, d_keys);
  }
}

inline void AttentionBackward::add_partials(std::int64_t head, std::int64_t chunk) const {
  const float scale = float(problem_.scale);
  const std::int64_t end = smaller((chunk + 1) * kKeys, problem_.n_keys);
  for (std::int64_t j = chunk * kKeys; j < end; ++j) {
    float* dk = gradients_.d_keys + (head * problem_.n_keys + j) * depth_;
    float* dv = gradients_.d_values + (head * problem_.n_keys + j) * value_depth_;
    for (std::int64_t s = 0; s < spans_; ++s) {
      const float* d_keys = partial_.data() + (head * spans_ + s) * partial_floats();
      const float* k = d_keys + j * ld_;
      const float* v = d_keys + partial_rows() * ld_ + j * value_ld_;
      for (std::int64_t c = 0; c < depth_; ++c) dk[c] = (s ? dk[c] : 0.0f) + scale * k[c];
      for (std::int64_t c = 0; c < value_depth_; ++c) dv[c] = (s ? dv[c] : 0.0f) + v[c];
    }
  }
}

inline void AttentionBackward::run(int threads) {
  pack_all(problem_, threads, problem_.keys, keys_);
  pack_all(problem_, threads, problem_.keys, keys_across_);
  pack_all(problem_, threads, problem_.values, values_);
  std::memset(slots_.data(), 0, sizeof(float) * std::size_t(slot_floats_ * threads));
  SlotPool pool(threads);
  runtime::parallel_for(heads_ * spans_, threads, [&](std::int64_t task) {
    const int slot = pool.acquire();
    run_span(task, slots_.data() + slot * slot_floats_);
    pool.release(slot);
  });
  const std::int64_t chunks = chunks_of(problem_.n_keys, kKeys);
  runtime::parallel_for(heads_ * chunks, threads,
                        [&](std::int64_t t) { add_partials(t / chunks, t % chunks); });
}

// As AttentionKernels::backward. Without queries the keys' gradients are zero.
inline int attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients) {
  const std::int64_t heads = problem.batch * problem.heads;
  if (heads == 0) return cpu::kAttentionDone;
  if (problem.n_queries == 0) {
    const auto keys = std::size_t(heads * problem.n_keys);
    std::memset(gradients.d_keys, 0, sizeof(float) * keys * std::size_t(problem.depth));
    std::memset(gradients.d_values, 0, sizeof(float) * keys * std::size_t(problem.value_depth));
    return cpu::kAttentionDone;
  }
  const int threads = thread_limit(problem);
  AttentionBackward work(problem, gradients, threads);
  if (!work.ok()) return cpu::kAttentionOutOfMemory;
  work.run(threads);
  return cpu::kAttentionDone;
}

PYLOC_NAMESPACE_END
