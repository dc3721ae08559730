// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Correlation maps c_n(p) = sum over levels of <h_n, F(p)>, streamed: the cells of a band of the map are
// packed once, every chunk of descriptors is multiplied by them a tile at a time, and a sink takes each tile
// while it lies in the cache. Levels of another size are brought to the map's size by bilinear interpolation
// of their correlations (Germain et al., S2DNet 2020; thesis Eq. 3.3), a band at a time.
//
//   struct Sink { void visit(int64 row, const float* values, int64 count, int64 first_cell); };
//   CorrelationStream stream(problem);
//   int status = stream.begin(first_row, n_rows);  if (status == 0) status = stream.run(sink);
//
// One thread at a time visits a row, with runs of at most kTileCells cells in ascending order. Neither the
// runs nor the values depend on the number of threads or on which rows are asked for. Values are not divided
// by T.
#pragma once

#include "cpu/correlation_problem.h"
#include "cpu/interpolation.h"
#include "cpu/slot_pool.h"
#include "cpu/tile_product.h"
#include "runtime/thread_pool.h"

PYLOC_NAMESPACE_BEGIN

using cpu::CorrelationLevel;
using cpu::CorrelationProblem;

constexpr int kMaxLevels = 16;

class CorrelationStream {
 public:
  explicit CorrelationStream(const CorrelationProblem& problem);
  ~CorrelationStream();
  CorrelationStream(const CorrelationStream&) = delete;
  CorrelationStream& operator=(const CorrelationStream&) = delete;

  // Packs the descriptors [first, first + count), count >= 1; a CorrelationStatus.
  int begin(std::int64_t first, std::int64_t count);
  // Sends every tile of those rows to the sink; a CorrelationStatus.
  template <class Sink>
  int run(Sink& sink);
  // The largest |c| that the magnitudes seen allow.
  double bound() const;
  int threads() const { return threads_; }

 private:
  struct Level {
    CorrelationLevel in;
    TileOperand kind;
    bool native;               // has the map's size
    char* rows = nullptr;      // packed descriptors, chunk after chunk
    char* cells = nullptr;     // packed cells of a band, block after block of kTileCells
    float* largest = nullptr;  // magnitude per block of the band
    std::int64_t chunk_bytes, block_bytes;
    float largest_row = 0, largest_cell = 0;
    std::int64_t band_rows = 0;  // not native: source rows a band can need, and the columns' taps
    ColumnTaps taps = {nullptr, nullptr, nullptr};
    std::int64_t first_row = 0, n_rows = 0;  // source rows of the present band
  };

  bool allocate();
  void pack_band(std::int64_t begin, std::int64_t end);
  void set_source_rows(Level& level, std::int64_t begin, std::int64_t end) const;
  float* resize_level(const Level& level, std::int64_t chunk, std::int64_t n_rows, float* coarse, float* to);
  void add_resized(const Level& level, const float* resized, std::int64_t n_rows, std::int64_t begin,
                   std::int64_t end, float* tile);
  template <class Sink>
  void run_chunk(std::int64_t chunk, std::int64_t begin, std::int64_t end, float* memory, Sink& sink);
  int status() const;

  std::int64_t cells() const { return problem_.height * problem_.width; }
  std::int64_t padded_width() const { return round_up(problem_.width, PackF::kWidth); }

  CorrelationProblem problem_;
  Level levels_[kMaxLevels];
  std::int64_t first_ = 0, count_ = 0;  // rows at hand
  std::int64_t chunk_rows_ = kTileRows, band_cells_ = kTileCells, band_blocks_ = 1;
  std::int64_t slot_floats_ = 0, coarse_floats_ = 0, resized_floats_ = 0;
  float* slots_ = nullptr;
  int threads_;
};

template <class T>
inline T* allocate_aligned(std::int64_t count) {
  return static_cast<T*>(std::aligned_alloc(64, std::size_t(round_up(count * sizeof(T), 64) + 64)));
}

inline CorrelationStream::CorrelationStream(const CorrelationProblem& problem) : problem_(problem) {
  threads_ = problem.num_threads > 0 ? problem.num_threads : runtime::default_num_threads();
  if (threads_ > SlotPool::kMax) threads_ = SlotPool::kMax;
  bool all_native = true;
  for (int i = 0; i < problem.n_levels; ++i) {
    Level& level = levels_[i];
    level.in = problem.levels[i];
    level.kind = tile_operand(level.in.descriptor_dtype, level.in.feature_dtype);
    level.native = level.in.height == problem.height && level.in.width == problem.width;
    level.block_bytes = packed_bytes(level.kind, kTileCells, level.in.depth, tile_columns(level.kind));
    all_native = all_native && level.native;
  }
  // A band of whole rows where levels are resized; where none is, one block that the second-level cache
  // holds, or some blocks that the threads share. Only the former's extent decides where runs begin.
  if (!all_native) {
    std::int64_t rows = 8 > 4096 / problem.width ? 8 : 4096 / problem.width;
    if (rows > problem.height) rows = problem.height;
    band_cells_ = rows * problem.width;
  } else if (threads_ > 1) {
    std::int64_t blocks = (std::int64_t(8) << 20) / levels_[0].block_bytes;
    blocks = blocks < 1 ? 1 : blocks > 16 ? 16 : blocks;
    band_cells_ = blocks * kTileCells;
  }
  band_blocks_ = round_up(band_cells_, kTileCells) / kTileCells;
}

inline CorrelationStream::~CorrelationStream() {
  for (Level& level : levels_) {
    std::free(level.rows);
    std::free(level.cells);
    std::free(level.largest);
    std::free(level.taps.low);
    std::free(level.taps.high);
    std::free(level.taps.weight);
  }
  std::free(slots_);
}

inline int CorrelationStream::begin(std::int64_t first, std::int64_t count) {
  first_ = first;
  count_ = count;
  const std::int64_t unit = tile_rows(levels_[0].kind);
  if (threads_ > 1) chunk_rows_ = round_up((count + 4 * threads_ - 1) / (4 * threads_), unit);
  if (threads_ == 1 || chunk_rows_ > kTileRows) chunk_rows_ = kTileRows;
  const std::int64_t chunks = (count + chunk_rows_ - 1) / chunk_rows_;
  for (int i = 0; i < problem_.n_levels; ++i) {
    Level& level = levels_[i];
    const CorrelationLevel& in = level.in;
    level.chunk_bytes = packed_bytes(level.kind, chunk_rows_, in.depth, tile_rows(level.kind));
    std::free(level.rows);
    level.rows = allocate_aligned<char>(level.chunk_bytes * chunks);
    if (!level.rows) return cpu::kOutOfMemory;
    const TileSource source{in.descriptors, in.descriptor_dtype, in.depth, 1};
    for (std::int64_t c = 0; c < chunks; ++c) {
      const std::int64_t at = c * chunk_rows_, n = count - at < chunk_rows_ ? count - at : chunk_rows_;
      const float found =
          pack_rows(level.kind, source, first + at, n, in.depth, level.rows + c * level.chunk_bytes);
      if (!isfinite_(found)) return cpu::kDescriptorsNotFinite + 8 * i;
      level.largest_row = max_(level.largest_row, found);
    }
  }
  return allocate() ? cpu::kCorrelationDone : cpu::kOutOfMemory;
}

// Memory of a band and of the slots: a tile, the coarse tile of one resized level, and for each of these the
// rows that the band needs at the map's width.
inline bool CorrelationStream::allocate() {
  if (slots_) return true;
  std::int64_t tile_height = chunk_rows_;
  for (int i = 0; i < problem_.n_levels; ++i)
    tile_height = round_up(chunk_rows_, tile_rows(levels_[i].kind)) > tile_height
                      ? round_up(chunk_rows_, tile_rows(levels_[i].kind))
                      : tile_height;
  bool ok = true;
  for (int i = 0; i < problem_.n_levels; ++i) {
    Level& level = levels_[i];
    std::int64_t blocks = band_blocks_;
    if (!level.native) {
      const std::int64_t band_height = band_cells_ / problem_.width;
      level.band_rows = band_height * level.in.height / problem_.height + 3;
      if (level.band_rows > level.in.height) level.band_rows = level.in.height;
      blocks = round_up(level.band_rows * level.in.width, kTileCells) / kTileCells;
      level.taps = {allocate_aligned<std::int32_t>(padded_width()),
                    allocate_aligned<std::int32_t>(padded_width()), allocate_aligned<float>(padded_width())};
      ok = ok && level.taps.low && level.taps.high && level.taps.weight;
      if (ok) fill_column_taps(level.taps, problem_.width, level.in.width, padded_width());
      resized_floats_ += chunk_rows_ * level.band_rows * padded_width();
      const std::int64_t coarse = tile_height * blocks * kTileCells;
      coarse_floats_ = coarse > coarse_floats_ ? coarse : coarse_floats_;
    }
    level.cells = allocate_aligned<char>(blocks * level.block_bytes);
    level.largest = allocate_aligned<float>(blocks);
    ok = ok && level.cells && level.largest;
  }
  slot_floats_ = round_up(tile_height * kTileCells + coarse_floats_ + resized_floats_, 16);
  if (ok) slots_ = allocate_aligned<float>(slot_floats_ * threads_);
  return ok && slots_;
}

inline void CorrelationStream::set_source_rows(Level& level, std::int64_t begin, std::int64_t end) const {
  const std::int64_t y0 = begin / problem_.width, y1 = (end - 1) / problem_.width;
  level.first_row = interpolation_tap(y0, problem_.height, level.in.height).low;
  level.n_rows = interpolation_tap(y1, problem_.height, level.in.height).high + 1 - level.first_row;
}

inline void CorrelationStream::pack_band(std::int64_t begin, std::int64_t end) {
  for (int i = 0; i < problem_.n_levels; ++i) {
    Level& level = levels_[i];
    const CorrelationLevel& in = level.in;
    std::int64_t from = begin, to = end;
    if (!level.native) {
      set_source_rows(level, begin, end);
      from = level.first_row * in.width;
      to = from + level.n_rows * in.width;
    }
    const TileSource source{in.features, in.feature_dtype, in.cell_stride, in.plane_stride};
    const std::int64_t blocks = round_up(to - from, kTileCells) / kTileCells;
    runtime::parallel_for(blocks, threads_, [&](std::int64_t b) {
      const std::int64_t at = from + b * kTileCells, n = to - at < kTileCells ? to - at : kTileCells;
      level.largest[b] =
          pack_columns(level.kind, source, at, n, in.depth, level.cells + b * level.block_bytes);
    });
    for (std::int64_t b = 0; b < blocks; ++b)  // once not finite it stays so
      if (isfinite_(level.largest_cell) && !(level.largest[b] <= level.largest_cell))
        level.largest_cell = level.largest[b];
  }
}

PYLOC_NAMESPACE_END

#include "cpu/correlation_stream_run.h"
