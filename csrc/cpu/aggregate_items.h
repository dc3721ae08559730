// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What SALAD's and NetVLAD's aggregation share: sums of features by weights of patches, V = W F^T with
// weights W (m, n) and features F (l, n), and the two products of its gradient, an item at a time.
#pragma once

#include "cpu/load_rows.h"
#include "cpu/row_products.h"
#include "cpu/slot_pool.h"
#include "cpu/store_rows.h"
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

// An item's features: row i begins at element first + i * stride.
struct PatchRows {
  const void* data;
  int dtype;
  std::int64_t first, stride, count;  // count: patches that take part

  // `rows` rows from row i on in the layout of row_products.h, as float32 or as they are.
  void copy(std::int64_t i, std::int64_t rows, float* to, std::int64_t ld) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      load_floats(dtype, data, first + (i + r) * stride, count, to + r * ld);
      for (std::int64_t j = count; j < round_up(count, kRowUnit); ++j) to[r * ld + j] = 0.0f;
    }
  }
  void copy(std::int64_t i, std::int64_t rows, std::uint16_t* to, std::int64_t ld) const {
    const auto* from = static_cast<const std::uint16_t*>(data) + first;
    for (std::int64_t r = 0; r < rows; ++r) {
      std::memcpy(to + r * ld, from + (i + r) * stride, 2 * std::size_t(count));
      for (std::int64_t j = count; j < round_up(count, kRowUnit); ++j) to[r * ld + j] = 0;
    }
  }
};

// Whether products take bfloat16 operands: where the features are, and the processor multiplies them.
inline bool multiplies_bf16(int feature_dtype) {
#if defined(__AVX512F__)
  return feature_dtype == kBFloat16 && runtime::has_avx512_bf16();
#else
  (void)feature_dtype;
  return false;
#endif
}

// The bits of floats rounded to bfloat16, ties to even, in the upper halves.
PYLOC_INLINE PackI rounded_bits(const float* x) {
  const PackI u = bits(PackF::load(x));
  return u + 0x7fff + bit_and(shift_right(u, 16), PackI(1));
}

// To bfloat16, ties to even; finite values. `to` may be the memory of `from`.
inline void round_floats(const float* from, std::int64_t count, std::uint16_t* to) {
  constexpr int W = PackF::kWidth;
  typedef std::uint16_t Halves __attribute__((vector_size(PYLOC_SIMD_BYTES / 2)));
  std::int64_t i = 0;
  for (; i + W <= count; i += W) {
    const PackI u = shift_right(rounded_bits(from + i), 16);
    const Halves half = __builtin_convertvector(u.raw, Halves);
    std::memcpy(to + i, &half, sizeof(half));
  }
  for (; i < count; ++i) to[i] = bf16_from_float(from[i]);
}

// W F^T of float32 weights (m, ld), zero beyond the item's patches, and l rows of features: out[i * l_step +
// k * m_step]. Takes kDotBlock * ld floats of memory and may overwrite the weights.
inline void sum_features(float* weights, std::int64_t m, std::int64_t ld, const PatchRows& features,
                         std::int64_t l, float* memory, float* out, std::int64_t l_step,
                         std::int64_t m_step) {
  const auto multiply = [&](auto kind, const auto* w, auto* rows) {
    for (std::int64_t i = 0; i < l; i += kDotBlock) {
      const std::int64_t here = l - i < kDotBlock ? l - i : kDotBlock;
      features.copy(i, here, rows, ld);
      row_products(kind, rows, here, ld, w, m, ld, features.count, out + i * l_step, l_step, m_step);
    }
  };
#if defined(__AVX512F__)
  if (multiplies_bf16(features.dtype)) {
    auto* rounded = reinterpret_cast<std::uint16_t*>(weights);  // a row ends before the next one is read
    for (std::int64_t k = 0; k < m; ++k) round_floats(weights + k * ld, ld, rounded + k * ld);
    return multiply(Bf16Rows{}, rounded, reinterpret_cast<std::uint16_t*>(memory));
  }
#endif
  multiply(FloatRows{}, weights, memory);
}

// The item's values of a row of patches that begins at element first, zero from there to `stride`.
inline void store_patches(int dtype, const float* from, std::int64_t count, std::int64_t stride, void* to,
                          std::int64_t first) {
  const std::int64_t element = dtype == kFloat32 ? 4 : 2;
  store_row(dtype, from, count, to, first, 1);
  std::memset(static_cast<char*>(to) + (first + count) * element, 0, std::size_t((stride - count) * element));
}

inline bool all_finite_of(const float* values, std::int64_t count) {
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) finite &= isfinite_(values[i]);
  return finite;
}

// The gradient's products: with D = dV (m, l), G = D F (m, n) and dF = D^T W (l, n), kColumns patches at a
// time.
class PatchGradients {
 public:
  PatchGradients(std::int64_t m, std::int64_t l, int feature_dtype)
      : m_(m), l_(l), kind_(multiplies_bf16(feature_dtype) ? TileOperand::kDotBf16 : TileOperand::kFloat32) {}
  std::int64_t floats() const {  // enough for either kind
    const std::int64_t rows = round_up(m_, kPanelRows), depths = round_up(l_, kPanelRows);
    return (rows + 2) * (l_ + 2) + (depths + 2) * (m_ + 2) + kColumns * (l_ + 2 * m_ + rows + depths + 5) +
           128;
  }
  // D is d[k * cluster_stride + i * depth_stride], in m * l floats, which are overwritten.
  void place(float* memory, float* d, std::int64_t cluster_stride, std::int64_t depth_stride) {
    const auto take = [&](std::int64_t floats) {
      float* at = memory;
      memory += round_up(floats, 16);
      return at;
    };
    by_cluster_ = take(round_up(m_, kPanelRows) * (l_ + 1));
    by_depth_ = take(round_up(l_, kPanelRows) * (m_ + 1));
    features_ = take(kColumns * (l_ + 1));
    weights_ = take(kColumns * (m_ + 1));
    slopes_ = take(round_up(m_, kPanelRows) * kColumns);
    tile_ = take(round_up(l_, kPanelRows) * kColumns);
    rows_ = take((m_ + 1) * kColumns);
    std::memset(rows_ + m_ * kColumns, 0, sizeof(float) * kColumns);  // the pair of an odd last cluster
    int dtype = kFloat32;
    if (kind_ != TileOperand::kFloat32) {
      dtype = kBFloat16;
      round_floats(d, m_ * l_, reinterpret_cast<std::uint16_t*>(d));
    }
    pack_rows(kind_, {d, dtype, cluster_stride, depth_stride}, 0, m_, l_, by_cluster_);
    pack_rows(kind_, {d, dtype, depth_stride, cluster_stride}, 0, l_, m_, by_depth_);
  }

  // All patches, in blocks: weigh(first, width, g, weights) is called with G of patches [first, first +
  // width) in g[k * kColumns] and writes their weights w_k, zero beyond the item's, to weights + k *
  // kColumns. dF goes to d_features in the features' dtype, where the item's features lie.
  template <class Weigh>
  void run(const PatchRows& features, void* d_features, const Weigh& weigh) const {
    const std::int64_t element = features.dtype == kFloat32 ? 4 : 2;
    const char* data = static_cast<const char*>(features.data) + features.first * element;
    for (std::int64_t first = 0; first < features.count; first += kColumns) {
      const std::int64_t here = features.count - first < kColumns ? features.count - first : kColumns;
      const std::int64_t width = round_up(here, kPanelColumns);
      if (features.dtype == kFloat32 && here == width) {
        pack_floats(reinterpret_cast<const float*>(data) + first, features.stride, l_, width, features_);
      } else {
        pack_columns(kind_, {data, features.dtype, 1, features.stride}, first, here, l_, features_);
      }
      tile_product(kind_, by_cluster_, m_, features_, here, l_, slopes_, kColumns);
      weigh(first, width, slopes_, rows_);
      if (kind_ == TileOperand::kFloat32) {
        pack_floats(rows_, kColumns, m_, width, weights_);
      } else {
        pack_pairs(width);
      }
      tile_product(kind_, by_depth_, l_, weights_, here, m_, tile_, kColumns);
      for (std::int64_t i = 0; i < l_; ++i)
        store_row(features.dtype, tile_ + i * kColumns, here, d_features,
                  features.first + i * features.stride + first, 1);
    }
    for (std::int64_t i = 0; i < l_; ++i)
      std::memset(
          static_cast<char*>(d_features) + (features.first + i * features.stride + features.count) * element,
          0, std::size_t((features.stride - features.count) * element));
  }

  static constexpr std::int64_t kColumns = 2 * kTileUnit;

 private:
  static constexpr int W = PackF::kWidth;

  // `depth` rows of `width` floats, whole panels, to where the product reads them (tile_pack.h): row by row,
  // as they lie in memory, where pack_columns goes panel by panel.
  static void pack_floats(const float* from, std::int64_t ld, std::int64_t depth, std::int64_t width,
                          float* to) {
    constexpr std::int64_t kDepth = 128;  // tile_depth of float32
    for (std::int64_t block = 0; block < depth; block += kDepth, to += kDepth * width) {
      const std::int64_t depths = depth - block < kDepth ? depth - block : kDepth;
      for (std::int64_t k = 0; k < depths; ++k, from += ld)
        for (std::int64_t j = 0; j < width; j += kPanelColumns)
          for (std::int64_t i = 0; i < kPanelColumns; i += W)
            PackF::load(from + j + i).store(to + j * depths + k * kPanelColumns + i);
    }
  }
  // Pairs of clusters, rounded to bfloat16: the even one in the low half of a word.
  void pack_pairs(std::int64_t width) const {
    const std::int64_t depth = tile_depth(kind_);
    float* to = weights_;
    for (std::int64_t block = 0; block < m_; block += depth, to += depth / 2 * width) {
      const std::int64_t end = block + depth < m_ ? block + depth : m_;
      const std::int64_t pairs = round_up(end - block, 2) / 2;
      for (std::int64_t k = 0; k < pairs; ++k)
        for (std::int64_t j = 0; j < width; j += W) {
          const float* from = rows_ + (block + 2 * k) * kColumns + j;
          const PackI low = bit_and(shift_right(rounded_bits(from), 16), PackI(0xffff));
          const PackI high = bit_and(rounded_bits(from + kColumns), PackI(std::int32_t(0xffff0000u)));
          const std::int64_t panel = j / kPanelColumns, within = j % kPanelColumns;
          from_bits(bit_or(low, high)).store(to + (panel * pairs + k) * kPanelColumns + within);
        }
    }
  }

  std::int64_t m_, l_;
  TileOperand kind_;
  float *by_cluster_, *by_depth_, *features_, *weights_, *slopes_, *tile_, *rows_;
};

PYLOC_NAMESPACE_END
