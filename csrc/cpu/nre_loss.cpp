// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/nre_loss.h"

#include "cpu/logit_tiles.h"
#include "cpu/nre_rows.h"
#include "cpu/slot_pool.h"
#include "cpu/store_rows.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kBandBlocks = 8;  // packed together where threads share them

// One item of the batch: its operands, and its descriptors packed chunk by chunk.
template <class T>
class NreItem {
 public:
  NreItem(const NreProblem& problem, std::int64_t item)
      : count(problem.num_valid ? problem.num_valid[item] : problem.count),
        depth(problem.depth),
        n_cells(problem.height * problem.width),
        height(problem.height),
        width(problem.width),
        threads(thread_count(problem)),
        targets(problem.targets + 2 * item * problem.count),
        descriptors{element(problem.descriptors, problem.descriptor_dtype, item * problem.count * depth),
                    problem.descriptor_dtype, depth, 1},
        features{element(problem.features, problem.feature_dtype, item * problem.item_stride),
                 problem.feature_dtype, problem.cell_stride, problem.plane_stride},
        logits(descriptors, features, depth),
        chunks((count + kTileRows - 1) / kTileRows),
        packed_(std::size_t(chunks * logits.chunk_bytes())) {}

  static int thread_count(const NreProblem& problem) {
    const int n = problem.num_threads > 0 ? problem.num_threads : runtime::default_num_threads();
    return n > SlotPool::kMax ? SlotPool::kMax : n;
  }

  // A CorrelationStatus.
  int pack() {
    if (!packed_) return kOutOfMemory;
    for (std::int64_t c = 0; c < chunks; ++c) {
      const double found = logits.pack_chunk(c * kTileRows, rows(c), chunk(c));
      if (!isfinite_(found)) return kDescriptorsNotFinite;
      largest_row_ = found > largest_row_ ? found : largest_row_;
    }
    return kCorrelationDone;
  }
  char* chunk(std::int64_t c) { return packed_.data() + c * logits.chunk_bytes(); }
  std::int64_t rows(std::int64_t c) const {
    return count - c * kTileRows < kTileRows ? count - c * kTileRows : kTileRows;
  }
  std::int64_t cells_from(std::int64_t begin) const {
    return n_cells - begin < kTileCells ? n_cells - begin : kTileCells;
  }
  NreTarget target(std::int64_t n) const { return nre_target(targets + 2 * n, height, width); }
  // After the largest feature has been seen.
  int status(double largest_cell, double temperature) const {
    if (!isfinite_(largest_cell)) return kFeaturesNotFinite;
    const double bound = largest_row_ * largest_cell * double(depth);
    const double scale = temperature < 1.4 ? 1.4426950408889634 / temperature : 1.0;
    return bound * scale < LogitTiles<T>::kLargest ? kCorrelationDone : kProductsTooLarge;
  }

  std::int64_t count, depth, n_cells, height, width;
  int threads;
  const double* targets;
  TileSource descriptors, features;
  LogitTiles<T> logits;
  std::int64_t chunks;

 private:
  static const void* element(const void* data, int dtype, std::int64_t index) {
    const std::int64_t size = dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2;
    return static_cast<const char*>(data) + index * size;
  }

  Scratch<char> packed_;
  double largest_row_ = 0.0;
};

// Blocks of cells packed by the threads together, plain and (on request) transposed.
template <class T>
class CellBand {
 public:
  CellBand(const NreItem<T>& item, bool transposed)
      : item_(item),
        blocks_(item.threads > 1 ? kBandBlocks : 1),
        transposed_size_(transposed ? CellsByDepth<T>::size(item.depth) : 0),
        packed_(std::size_t(blocks_ * item.logits.block_bytes())),
        transposed_(std::size_t(blocks_ * transposed_size_)) {}
  explicit operator bool() const { return packed_ && transposed_; }
  std::int64_t cells() const { return blocks_ * kTileCells; }
  const char* plain(std::int64_t block) const { return packed_.data() + block * item_.logits.block_bytes(); }
  const T* by_depth(std::int64_t block) const { return transposed_.data() + block * transposed_size_; }

  // Returns the largest magnitude, NaN or infinity if any value is not finite.
  double pack(std::int64_t begin) {
    double largest[kBandBlocks] = {};
    const std::int64_t end = begin + cells() < item_.n_cells ? begin + cells() : item_.n_cells;
    const std::int64_t n = (end - begin + kTileCells - 1) / kTileCells;
    runtime::parallel_for(n, item_.threads, [&](std::int64_t b) {
      const std::int64_t at = begin + b * kTileCells, here = item_.cells_from(at);
      largest[b] = item_.logits.pack_block(at, here, packed_.data() + b * item_.logits.block_bytes());
      if (transposed_size_ > 0)
        CellsByDepth<T>::pack(item_.features, at, here, item_.depth,
                              transposed_.data() + b * transposed_size_);
    });
    double all = 0.0;
    for (std::int64_t b = 0; b < n; ++b)
      if (isfinite_(all) && !(largest[b] <= all)) all = largest[b];
    return all;
  }

 private:
  const NreItem<T>& item_;
  std::int64_t blocks_, transposed_size_;
  Scratch<char> packed_;
  Scratch<T> transposed_;
};

// The forward pass of one item.
template <class T>
class NreForwardPass {
 public:
  NreForwardPass(const NreProblem& problem, const NreForward& out, std::int64_t item_index)
      : problem_(problem),
        item_(problem, item_index),
        first_(item_index * problem.count),
        out_(out),
        scale_(nre_scale<T>(problem.temperature)),
        stride_(round_up(problem.depth, Pack<T>::kWidth)),
        jacobian_(static_cast<T*>(out.descriptor_jacobian)),
        padded_(item_.chunks * kTileRows),
        rows_(std::size_t(item_.count)),
        targets_(std::size_t(item_.count)),
        means_(std::size_t(jacobian_ ? padded_ * stride_ : 0)),
        tiles_(std::size_t(item_.threads * item_.logits.tile_height() * kLogitStride)) {}

  int run() {
    if (!rows_ || !targets_ || !means_ || !tiles_) return kOutOfMemory;
    clear();
    if (item_.count == 0) return kCorrelationDone;
    if (const int bad = item_.pack()) return bad;
    CellBand<T> band(item_, jacobian_ != nullptr);
    if (!band) return kOutOfMemory;
    SlotPool pool(item_.threads);
    for (std::int64_t begin = 0; begin < item_.n_cells; begin += band.cells()) {
      if (const int bad = item_.status(band.pack(begin), problem_.temperature)) return bad;
      const std::int64_t end = begin + band.cells() < item_.n_cells ? begin + band.cells() : item_.n_cells;
      runtime::parallel_for(item_.chunks, item_.threads, [&](std::int64_t chunk) {
        const int slot = pool.acquire();
        T* tile = tiles_.data() + slot * item_.logits.tile_height() * kLogitStride;
        for (std::int64_t at = begin; at < end; at += kTileCells)
          visit(chunk, at, band, (at - begin) / kTileCells, tile);
        pool.release(slot);
      });
    }
    for (std::int64_t n = 0; n < item_.count; ++n) finish(n);
    return kCorrelationDone;
  }

 private:
  void clear() {
    for (std::int64_t n = 0; n < problem_.count; ++n) {
      const std::int64_t at = first_ + n;
      out_.loss[at] = out_.statistics[2 * at] = out_.statistics[2 * at + 1] = 0.0;
      out_.counted[at] = 0;
      out_.target_jacobian[2 * at] = out_.target_jacobian[2 * at + 1] = 0.0;
    }
    if (jacobian_)
      std::memset(jacobian_ + first_ * item_.depth, 0, sizeof(T) * std::size_t(problem_.count * item_.depth));
    if (jacobian_) std::memset(means_.data(), 0, sizeof(T) * std::size_t(padded_ * stride_));
    for (std::int64_t n = 0; n < item_.count; ++n) {
      targets_[n] = item_.target(n);
      rows_[n] = {T(-HUGE_VAL), 0.0, {}};
    }
  }

  void visit(std::int64_t chunk, std::int64_t begin, const CellBand<T>& band, std::int64_t block, T* tile) {
    const std::int64_t cells = item_.cells_from(begin), rows = item_.rows(chunk);
    item_.logits.product(item_.chunk(chunk), rows, band.plain(block), cells, tile);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t n = chunk * kTileRows + r;
      T* values = tile + r * kLogitStride;
      note_target(n, values, begin, cells, band.by_depth(block));
      const T factor = absorb(rows_[n], values, cells, scale_, problem_.temperature);
      if (jacobian_ && factor != T(1))
        for (std::int64_t d = 0; d < stride_; ++d) means_[n * stride_ + d] *= factor;
    }
    if (jacobian_)
      CellsByDepth<T>::add_product(tile, round_up(rows, kPanelRows), band.by_depth(block), cells, item_.depth,
                                   means_.data() + chunk * kTileRows * stride_, stride_);
  }

  // Correlations at the target's cells, and the features there into the Jacobian.
  void note_target(std::int64_t n, const T* values, std::int64_t begin, std::int64_t cells,
                   const T* by_depth) {
    const NreTarget& target = targets_[n];
    if (!target.inside || target.cell[0] >= begin + cells || target.cell[3] < begin) return;
    for (int k = 0; k < 4; ++k) {
      const std::int64_t p = target.cell[k] - begin;
      if (p < 0 || p >= cells) continue;
      rows_[n].near[k] = values[p];
      if (!jacobian_) continue;
      T* to = jacobian_ + (first_ + n) * item_.depth;
      const T weight = T(target.weight(k));
      for (std::int64_t d = 0; d < item_.depth; ++d)
        to[d] += weight * by_depth[d / kPackColumns<T> * CellsByDepth<T>::kPanel + p * kPackColumns<T> +
                                   d % kPackColumns<T>];
    }
  }

  void finish(std::int64_t n) {
    const NreTarget& target = targets_[n];
    const NreRow<T>& row = rows_[n];
    const std::int64_t at = first_ + n;
    const double T1 = 1.0 / problem_.temperature;
    T* jacobian = jacobian_ ? jacobian_ + at * item_.depth : nullptr;
    out_.counted[at] = target.inside || !problem_.mask_outside;
    out_.statistics[2 * at] = double(row.peak);
    out_.statistics[2 * at + 1] = std::log(row.sum);
    if (!target.inside) {  // masked: what clear() wrote stays
      if (problem_.mask_outside) return;
      out_.loss[at] = out_.target_jacobian[2 * at] = out_.target_jacobian[2 * at + 1] = std::nan("");
      for (std::int64_t d = 0; jacobian && d < item_.depth; ++d) jacobian[d] = T(std::nan(""));
      return;
    }
    double below = 0.0;  // how far the value at the target lies below the peak
    for (int k = 0; k < 4; ++k) below += target.weight(k) * (double(row.peak) - double(row.near[k]));
    out_.loss[at] = std::log(row.sum) + below * T1;
    const double c[4] = {double(row.near[0]), double(row.near[1]), double(row.near[2]), double(row.near[3])};
    out_.target_jacobian[2 * at] = -((1.0 - target.fy) * (c[1] - c[0]) + target.fy * (c[3] - c[2])) * T1;
    out_.target_jacobian[2 * at + 1] = -((1.0 - target.fx) * (c[2] - c[0]) + target.fx * (c[3] - c[1])) * T1;
    if (!jacobian) return;
    const double inverse = 1.0 / row.sum;
    for (std::int64_t d = 0; d < item_.depth; ++d)
      jacobian[d] = T((double(means_[n * stride_ + d]) * inverse - double(jacobian[d])) * T1);
  }

  const NreProblem& problem_;
  NreItem<T> item_;
  std::int64_t first_;
  NreForward out_;
  T scale_;
  std::int64_t stride_;
  T* jacobian_;
  std::int64_t padded_;
  Scratch<NreRow<T>> rows_;
  Scratch<NreTarget> targets_;
  Scratch<T> means_;
  Scratch<T> tiles_;
};

// The gradient of one item's features; a block of cells belongs to one thread, which sums over the points in
// order.
template <class T>
class NreBackwardPass {
 public:
  NreBackwardPass(const NreProblem& problem, const NreBackward& out, std::int64_t item_index)
      : item_(problem, item_index),
        first_(item_index * problem.count),
        out_(out),
        out_base_(item_index * out.item_stride),
        temperature_(problem.temperature),
        stride_(round_up(item_.depth, kPanelRows) + Pack<T>::kWidth),
        sum_size_(round_up(item_.depth, kPanelRows) * kLogitStride),
        tile_size_(item_.logits.tile_height() * kLogitStride),
        weighted_(std::size_t(item_.chunks * kTileRows * stride_)),
        sums_(std::size_t(item_.threads * sum_size_)),
        tiles_(std::size_t(item_.threads * tile_size_)),
        packed_(std::size_t(item_.threads * item_.logits.block_bytes())) {}

  int run() {
    if (!weighted_ || !sums_ || !tiles_ || !packed_) return kOutOfMemory;
    if (const int bad = item_.pack()) return bad;
    weigh_descriptors();
    const std::int64_t blocks = (item_.n_cells + kTileCells - 1) / kTileCells;
    SlotPool pool(item_.threads);
    int bad = kCorrelationDone;
    runtime::parallel_for(blocks, item_.threads, [&](std::int64_t block) {
      const int slot = pool.acquire();
      if (const int found = visit(block * kTileCells, slot)) __atomic_store_n(&bad, found, __ATOMIC_RELAXED);
      pool.release(slot);
    });
    return bad;
  }

 private:
  // dL/dloss_n / T * h_n; 0 for points that do not count.
  void weigh_descriptors() {
    std::memset(weighted_.data(), 0, sizeof(T) * std::size_t(item_.chunks * kTileRows * stride_));
    with_loader<T>(item_.descriptors.dtype, [&](auto load) {
      using Load = decltype(load);
      const auto* h = static_cast<const typename Load::Element*>(item_.descriptors.data);
      for (std::int64_t n = 0; n < item_.count; ++n) {
        if (!item_.target(n).inside) continue;
        const double weight = out_.loss_gradient[first_ + n] / temperature_;
        for (std::int64_t d = 0; d < item_.depth; ++d)
          weighted_[n * stride_ + d] = T(weight * double(Load::load(h + n * item_.depth + d)));
      }
    });
  }

  int visit(std::int64_t begin, int slot) {
    const std::int64_t cells = item_.cells_from(begin);
    char* block = packed_.data() + slot * item_.logits.block_bytes();
    T* sums = sums_.data() + slot * sum_size_;
    T* tile = tiles_.data() + slot * tile_size_;
    if (!isfinite_(item_.logits.pack_block(begin, cells, block))) return kFeaturesNotFinite;
    std::memset(sums, 0, sizeof(T) * std::size_t(sum_size_));
    const T scale = nre_scale<T>(temperature_);
    for (std::int64_t chunk = 0; chunk < item_.chunks; ++chunk) {
      const std::int64_t rows = item_.rows(chunk), padded = round_up(rows, kPanelRows);
      item_.logits.product(item_.chunk(chunk), rows, block, cells, tile);
      for (std::int64_t r = 0; r < rows; ++r)
        differentiate(chunk * kTileRows + r, tile + r * kLogitStride, begin, cells, scale);
      add_transposed_product(weighted_.data() + chunk * kTileRows * stride_, stride_, tile, padded, cells,
                             item_.depth, sums);
    }
    write(begin, cells, sums);
    return kCorrelationDone;
  }

  // values <- C - bilinear weight of each cell.
  void differentiate(std::int64_t n, T* values, std::int64_t begin, std::int64_t cells, T scale) {
    const NreTarget target = item_.target(n);
    if (!target.inside) {  // its weighted descriptor is 0; keep NaN away from it
      std::memset(values, 0, sizeof(T) * std::size_t(cells));
      return;
    }
    const double* statistics = out_.statistics + 2 * (first_ + n);
    probabilities(values, cells, statistics[0], statistics[1], scale);
    for (int k = 0; k < 4; ++k) {
      const std::int64_t p = target.cell[k] - begin;
      if (p >= 0 && p < cells) values[p] -= T(target.weight(k));
    }
  }

  void write(std::int64_t begin, std::int64_t cells, const T* sums) const {
    const std::int64_t base = out_base_ + begin * out_.cell_stride;
    for (std::int64_t d = 0; d < item_.depth; ++d)
      store_row(item_.features.dtype, sums + d * kLogitStride, cells, out_.feature_gradient,
                base + d * out_.plane_stride, out_.cell_stride);
  }

  NreItem<T> item_;
  std::int64_t first_;
  NreBackward out_;
  std::int64_t out_base_;
  double temperature_;
  std::int64_t stride_, sum_size_, tile_size_;
  Scratch<T> weighted_, sums_, tiles_;
  Scratch<char> packed_;
};

template <template <class> class Pass, class Out>
int for_each_item(const NreProblem& problem, const Out& out) {
  int status = kCorrelationDone;
  for (std::int64_t b = 0; b < problem.batch && status == kCorrelationDone; ++b)
    status = problem.feature_dtype == kFloat64 ? Pass<double>(problem, out, b).run()
                                               : Pass<float>(problem, out, b).run();
  return status;
}

int forward(const NreProblem& problem, const NreForward& out) {
  return for_each_item<NreForwardPass>(problem, out);
}
int backward(const NreProblem& problem, const NreBackward& out) {
  return for_each_item<NreBackwardPass>(problem, out);
}

}  // namespace

const NreLossKernels& nre_loss_kernels() {
  static constexpr NreLossKernels kernels{&forward, &backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
