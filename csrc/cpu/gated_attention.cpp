// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/gated_attention.h"

#include "cpu/attention_backward.h"
#include "cpu/attention_tiles.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// Up to this many keys the strip of S of one block of queries is kept between the two passes; beyond, the
// products are computed twice and memory stays bounded.
constexpr std::int64_t kStripKeys = 8192;

struct Forward {
  const AttentionProblem& problem;
  const AttentionOutput& out;
  TileOperand kind;
  PackedRows keys, values;
  std::int64_t slot_floats, strip_chunks;

  Forward(const AttentionProblem& p, const AttentionOutput& o)
      : problem(p),
        out(o),
        kind(tile_operand(p.dtype, p.dtype)),
        keys(kind, p.batch * p.heads, p.n_keys, p.depth, false),
        values(TileOperand::kFloat32, p.batch * p.heads, p.n_keys, p.value_depth, true) {
    strip_chunks = p.n_keys <= kStripKeys ? chunks_of(p.n_keys, kKeys) : 1;
    slot_floats = query_floats() + strip_chunks * kTileHeight * kQueries + kKeys * kQueries + sum_floats();
  }
  std::int64_t query_floats() const {
    return round_up(packed_bytes(kind, kQueries, problem.depth, tile_columns(kind)), 64) / 4;
  }
  std::int64_t sum_floats() const { return round_up(problem.value_depth, kPanelRows) * kQueries; }

  // Lanes beyond n_queries keep what an earlier block left there; nobody reads them.
  void product(std::int64_t head, std::int64_t chunk, std::int64_t n_keys, const float* packed,
               std::int64_t n_queries, float* tile) const {
    tile_product(kind, keys.chunk(head, chunk), n_keys, packed, n_queries, problem.depth, tile, kQueries);
  }
  void run(std::int64_t head, std::int64_t block, float* memory) const;
};

// Running maximum of every query over n keys, and the key that has it.
void find_peaks(float* tile, std::int64_t n, std::int64_t first_key, float* peak, float* best) {
  for (int p = 0; p < kPanels; ++p)
    for (int q = 0; q < kPanelVectors; ++q) {
      const int at = p * kPanelColumns + q * PackF::kWidth;
      PackF top = PackF::load(peak + at), key = PackF::load(best + at);
      for (std::int64_t j = 0; j < n; ++j) {
        const PackF s = PackF::load(tile_at(tile, j, p, q));
        const PackMask<float> more = s > top;
        top = select(more, s, top);
        key = select(more, PackF(float(first_key + j)), key);
      }
      top.store(peak + at);
      key.store(best + at);
    }
}

// exp(g (S - max)) of n keys into the packed operand; adds to the sums.
void exponentials(float* tile, std::int64_t n, const float* peak, const float* factor, float* packed,
                  float* sum) {
  for (int p = 0; p < kPanels; ++p)
    for (int q = 0; q < kPanelVectors; ++q) {
      const int at = p * kPanelColumns + q * PackF::kWidth;
      const PackF top = PackF::load(peak + at), f = PackF::load(factor + at);
      PackF total = PackF::load(sum + at);
      for (std::int64_t j = 0; j < n; ++j) {
        const PackF e = exp2_nonpositive_((PackF::load(tile_at(tile, j, p, q)) - top) * f);
        total = total + e;
        e.store(packed_at(packed, n, j, p, q));
      }
      total.store(sum + at);
    }
}

void Forward::run(std::int64_t head, std::int64_t block, float* memory) const {
  const std::int64_t first = block * kQueries, n = smaller(problem.n_queries - first, kQueries);
  const std::int64_t valid = valid_keys(problem, head), row = head * problem.n_queries + first;
  const std::int64_t chunks = chunks_of(valid, kKeys);
  float* queries = memory;
  float* strip = queries + query_floats();
  float* weights = strip + strip_chunks * kTileHeight * kQueries;
  float* sums = weights + kKeys * kQueries;
  const std::int64_t element = problem.dtype == kFloat32 ? 4 : 2;
  const char* from = static_cast<const char*>(problem.queries) + row * problem.depth * element;
  pack_columns(kind, items_of(from, problem.dtype, problem.depth), 0, n, problem.depth, queries);
  alignas(64) float peak[kQueries], best[kQueries], factor[kQueries], sum[kQueries] = {};
  for (int i = 0; i < kQueries; ++i) peak[i] = -HUGE_VALF, best[i] = 0.0f;
  const bool kept = chunks <= strip_chunks;
  const auto tile = [&](std::int64_t c) { return strip + (kept ? c * kTileHeight * kQueries : 0); };
  for (std::int64_t c = 0; c < chunks; ++c) {
    const std::int64_t here = smaller(valid - c * kKeys, kKeys);
    product(head, c, here, queries, n, tile(c));
    find_peaks(tile(c), here, c * kKeys, peak, best);
  }
  for (int i = 0; i < kQueries; ++i)
    factor[i] = float(1.4426950408889634 * problem.scale) * sigmoid(float(problem.scale) * peak[i]);
  for (std::int64_t c = 0; c < chunks; ++c) {
    const std::int64_t here = smaller(valid - c * kKeys, kKeys);
    if (!kept) product(head, c, here, queries, n, tile(c));
    exponentials(tile(c), here, peak, factor, weights, sum);
    tile_product(TileOperand::kFloat32, values.chunk(head, c), problem.value_depth, weights, kQueries, here,
                 sums, kQueries, c > 0);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const float inverse = 1.0f / sum[i];
    float* to = out.out + (row + i) * problem.value_depth;
    for (std::int64_t c = 0; c < problem.value_depth; ++c) to[c] = sums[c * kQueries + i] * inverse;
    const float m = float(problem.scale) * peak[i];
    out.peak[row + i] = m;
    out.log_sum[row + i] = sigmoid(m) * m + std::log(sum[i]);
    out.best[row + i] = std::int32_t(best[i]);
  }
}

int forward(const AttentionProblem& problem, const AttentionOutput& out) {
  const std::int64_t blocks = chunks_of(problem.n_queries, kQueries), heads = problem.batch * problem.heads;
  if (blocks * heads == 0) return kAttentionDone;
  Forward work(problem, out);
  const int threads = int(smaller(thread_limit(problem), blocks * heads));
  Scratch<float> slots(std::size_t(work.slot_floats * threads));
  if (!work.keys.ok() || !work.values.ok() || !slots) return kAttentionOutOfMemory;
  std::memset(slots.data(), 0, sizeof(float) * std::size_t(work.slot_floats * threads));
  pack_all(problem, threads, problem.keys, work.keys);
  pack_all(problem, threads, problem.values, work.values);
  SlotPool pool(threads);
  runtime::parallel_for(blocks * heads, threads, [&](std::int64_t t) {
    const int slot = pool.acquire();
    work.run(t / blocks, t % blocks, slots.data() + slot * work.slot_floats);
    pool.release(slot);
  });
  return kAttentionDone;
}

}  // namespace

const GatedAttentionKernels& gated_attention_kernels() {
  static constexpr GatedAttentionKernels kernels{&forward, &attention_backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
