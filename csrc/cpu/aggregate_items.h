// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What SALAD's and NetVLAD's aggregation share: sums of features by weights of patches, V = W F^T with
// weights W (m, n) and features F (l, n), and the two products of its gradient, an item at a time.
#pragma once

#include "cpu/row_products.h"
#include "cpu/slot_pool.h"
#include "cpu/tile_product.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu {

// Bad scores: NaN or +inf. Bad sums: V is not finite, from features that are not or that are too large.
// Twin in pyloc_core/_aggregation.py.
enum AggregateStatus : int {
  kAggregateDone = 0,
  kAggregateOutOfMemory = 1,
  kAggregateBadScores = 2,
  kAggregateBadSums = 3
};

}  // namespace pyloc::cpu

PYLOC_NAMESPACE_BEGIN

// Calls work.run(item, memory of work.slot_floats()) for every item; the last status that is not done.
template <class Work>
int run_items(std::int64_t batch, int num_threads, const Work& work) {
  if (batch == 0) return cpu::kAggregateDone;
  const int wanted = num_threads > 0 ? num_threads : runtime::default_num_threads();
  const std::int64_t most = batch < SlotPool::kMax ? batch : SlotPool::kMax;
  const int threads = int(wanted < most ? wanted : most);
  const std::int64_t floats = round_up(work.slot_floats(), 16);
  Scratch<float> memory(std::size_t(floats * threads));
  if (!memory) return cpu::kAggregateOutOfMemory;
  SlotPool pool(threads);
  int worst = cpu::kAggregateDone;
  runtime::parallel_for(batch, threads, [&](std::int64_t item) {
    const int slot = pool.acquire();
    const int status = work.run(item, memory.data() + slot * floats);
    pool.release(slot);
    if (status != cpu::kAggregateDone) __atomic_store_n(&worst, status, __ATOMIC_RELAXED);
  });
  return worst;
}

// Element `first` and on of an array as float32.
inline void load_floats(int dtype, const void* from, std::int64_t first, std::int64_t count, float* to) {
  if (dtype == kFloat32) {
    std::memcpy(to, static_cast<const float*>(from) + first, sizeof(float) * std::size_t(count));
    return;
  }
  const auto* half = static_cast<const std::uint16_t*>(from) + first;
  if (dtype == kFloat16)
    for (std::int64_t i = 0; i < count; ++i) to[i] = LoadFloat16::load(half + i);
  else
    for (std::int64_t i = 0; i < count; ++i) to[i] = LoadBf16::load(half + i);
}

// An item's features: row i begins at element first + i * stride.
struct PatchRows {
  const void* data;
  int dtype;
  std::int64_t first, stride, count;  // count: patches that take part

  // Rows in the layout of row_products.h.
  void copy(std::int64_t rows, float* to, std::int64_t ld) const {
    for (std::int64_t i = 0; i < rows; ++i) {
      load_floats(dtype, data, first + i * stride, count, to + i * ld);
      for (std::int64_t j = count; j < round_up(count, kRowUnit); ++j) to[i * ld + j] = 0.0f;
    }
  }
};

inline bool all_finite_of(const float* values, std::int64_t count) {
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) finite &= isfinite_(values[i]);
  return finite;
}

// The gradient's products: with D = dV (m, l), G = D F (m, n) and dF = D^T W (l, n), kColumns patches at a
// time.
class PatchGradients {
 public:
  static constexpr TileOperand kKind = TileOperand::kFloat32;
  static constexpr std::int64_t kColumns = 2 * kTileUnit;

  PatchGradients(std::int64_t m, std::int64_t l) : m_(m), l_(l) {}
  std::int64_t floats() const {
    const std::int64_t rows = round_up(m_, kPanelRows), depths = round_up(l_, kPanelRows);
    return rows * l_ + depths * m_ + kColumns * (l_ + m_ + rows + depths) + 96;
  }
  // D is d[k * cluster_stride + i * depth_stride].
  void place(float* memory, const float* d, std::int64_t cluster_stride, std::int64_t depth_stride) {
    const auto take = [&](std::int64_t floats) {
      float* at = memory;
      memory += round_up(floats, 16);
      return at;
    };
    by_cluster_ = take(round_up(m_, kPanelRows) * l_);
    by_depth_ = take(round_up(l_, kPanelRows) * m_);
    features_ = take(kColumns * l_);
    weights_ = take(kColumns * m_);
    slopes_ = take(round_up(m_, kPanelRows) * kColumns);
    tile_ = take(round_up(l_, kPanelRows) * kColumns);
    pack_rows(kKind, {d, kFloat32, cluster_stride, depth_stride}, 0, m_, l_, by_cluster_);
    pack_rows(kKind, {d, kFloat32, depth_stride, cluster_stride}, 0, l_, m_, by_depth_);
  }

  // All patches: weigh(j, g, g_stride, to) is called for every W of them, from patch j on, with G in
  // g[k * g_stride]; it writes their weights w_k, zero beyond the item's, to to(k). dF goes to d_features,
  // row by row.
  template <class Weigh>
  void run(const PatchRows& features, float* d_features, const Weigh& weigh) const {
    constexpr int W = PackF::kWidth;
    const std::int64_t element = features.dtype == kFloat32 ? 4 : 2;
    const char* data = static_cast<const char*>(features.data) + features.first * element;
    for (std::int64_t first = 0; first < features.count; first += kColumns) {
      const std::int64_t here = features.count - first < kColumns ? features.count - first : kColumns;
      const std::int64_t width = round_up(here, kPanelColumns);
      pack_columns(kKind, {data, features.dtype, 1, features.stride}, first, here, l_, features_);
      tile_product(kKind, by_cluster_, m_, features_, here, l_, slopes_, kColumns);
      for (std::int64_t j = 0; j < width; j += W) {
        const std::int64_t panel = j / kPanelColumns, within = j % kPanelColumns;
        weigh(first + j, slopes_ + j, kColumns, [&](std::int64_t k) {
          const std::int64_t depth = k / tile_depth(kKind) * tile_depth(kKind);
          const std::int64_t depths = m_ - depth < tile_depth(kKind) ? m_ - depth : tile_depth(kKind);
          return weights_ + depth * width + (panel * depths + k - depth) * kPanelColumns + within;
        });
      }
      tile_product(kKind, by_depth_, l_, weights_, here, m_, tile_, kColumns);
      for (std::int64_t i = 0; i < l_; ++i)
        std::memcpy(d_features + i * features.stride + first, tile_ + i * kColumns,
                    sizeof(float) * std::size_t(here));
    }
    for (std::int64_t i = 0; i < l_; ++i)
      for (std::int64_t j = features.count; j < features.stride; ++j)
        d_features[i * features.stride + j] = 0.0f;
  }

 private:
  std::int64_t m_, l_;
  float *by_cluster_, *by_depth_, *features_, *weights_, *slopes_, *tile_;
};

PYLOC_NAMESPACE_END
