// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One pass: while the cells stream by, a row keeps its running softmax, as `match` does, and its largest
// correlations. A cell that is live in the end exceeds, at every moment, the live threshold under the
// softmax so far, since the sum only grows: that bound drops what a peaked map has below its truncation, and
// the limit drops the rest, before anything is stored.
#include "cpu/loss_maps.h"

#include <new>

#include "cpu/correlation_stream.h"
#include "cpu/row_softmax.h"
#include "cpu/top_cells.h"
#include "pyloc/loss_map.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
constexpr std::int64_t kCandidateBytes = std::int64_t{128} << 20;  // candidates of a group of rows
constexpr std::int64_t kChunk = runtime::SparseRows::kChunkRows;

struct LossSink {
  SoftmaxRow* rows;
  TopCells* top;
  std::int64_t first, last;  // rows of the group
  float scale;               // log2(e) / T
  float margin;              // log2 of the least live probability, over scale; -inf: every cell is live

  void visit(std::int64_t row, const float* values, std::int64_t count, std::int64_t cell) {
    SoftmaxRow& state = rows[row - first];
    TopCells& best = top[row - first];
    if (row + 2 < last) __builtin_prefetch(&top[row + 2 - first]);
    if (row + 1 < last) top[row + 1 - first].prefetch();
    const float largest = visit_cells<false>(state, values, count, cell, scale);
    best.raise(state.peak + margin);  // the sum is at least 1: ln C <= (c - peak) / T
    if (!(largest > best.threshold())) return;
    best.offer_run(values, count, static_cast<std::int32_t>(cell));
  }
};

// Live entries of one map, appended to its chunk.
bool write_row(const CorrelationProblem& problem, const LossMapsOptions& options, const SoftmaxRow& row,
               double scale, double log2_least, TopCells& top, runtime::SparseChunk& chunk,
               std::int64_t& length) {
  const double log2_sum = double(row.peak) * scale + std::log2(row.sum);  // of all 2^(c scale)
  top.finish(static_cast<float>((log2_sum + log2_least) / scale));
  if (top.out_of_memory() || !runtime::reserve_entries(chunk, top.size())) return false;
  const auto width = static_cast<std::int32_t>(problem.width);
  for (std::int64_t i = 0; i < top.size(); ++i) {
    double log_p = (top.value(i) * scale - log2_sum) * kLn2;
    if (options.epsilon > 0) log_p = std::log(std::exp(log_p) + options.epsilon);
    const float gain = static_cast<float>(options.log_cardinality + log_p);
    if (!(gain > 0)) continue;  // rounding at the truncation
    const std::int32_t cell = top.cell(i);
    chunk.cells[chunk.size] = cell_key(cell % width, cell / width);
    chunk.gain[chunk.size] = gain;
    ++chunk.size;
    ++length;
  }
  return true;
}

// Rows that are worked on together: whole chunks, within the memory for candidates.
std::int64_t rows_at_once(const CorrelationProblem& problem, std::int64_t limit) {
  const std::int64_t cells = problem.height * problem.width;
  const std::int64_t kept = limit < cells / 4 ? 4 * limit + 64 : cells;
  const std::int64_t rows = round_up(kCandidateBytes / (8 * kept) + 1, kTileRows);
  return rows < problem.count ? rows : problem.count;
}

int loss_maps(const CorrelationProblem& problem, const LossMapsOptions& options, runtime::SparseRows& rows) {
  if (problem.count == 0) return kCorrelationDone;
  const std::int64_t group = rows_at_once(problem, options.limit);
  const double scale = static_cast<double>(static_cast<float>(1.4426950408889634 / options.temperature));
  const double least = std::exp(-options.log_cardinality) - options.epsilon;
  const double log2_least = least > 0 ? std::log2(least) : -HUGE_VAL;
  Scratch<SoftmaxRow> softmax(static_cast<std::size_t>(group));
  Scratch<int> status(static_cast<std::size_t>(rows.chunks));
  TopCells* const top = new (std::nothrow) TopCells[static_cast<std::size_t>(group)];
  int worst = softmax && status && top ? kCorrelationDone : kOutOfMemory;
  CorrelationStream stream(problem);
  for (std::int64_t first = 0; first < problem.count && worst == kCorrelationDone; first += group) {
    const std::int64_t count = problem.count - first < group ? problem.count - first : group;
    for (std::int64_t r = 0; r < count; ++r) {
      softmax[r] = empty_softmax_row();
      if (!top[r].start(options.limit, -HUGE_VALF)) worst = kOutOfMemory;
    }
    LossSink sink{softmax.data(), top,          first,
                  first + count,  float(scale), static_cast<float>(log2_least / scale)};
    if (worst == kCorrelationDone) worst = stream.begin(first, count);
    if (worst == kCorrelationDone) worst = stream.run(sink);
    if (worst == kCorrelationDone && !(stream.bound() * scale < 1e37)) worst = kProductsTooLarge;
    if (worst != kCorrelationDone) break;
    const std::int64_t chunks = (count + kChunk - 1) / kChunk;
    runtime::parallel_for(chunks, problem.num_threads, [&](std::int64_t c) {
      bool ok = true;
      for (std::int64_t r = c * kChunk; r < (c + 1) * kChunk && r < count; ++r)
        ok = write_row(problem, options, softmax[r], scale, log2_least, top[r],
                       rows.chunk[(first + r) / kChunk], rows.lengths[first + r]) &&
             ok;
      status[c] = ok ? kCorrelationDone : kOutOfMemory;
    });
    for (std::int64_t c = 0; c < chunks; ++c)
      if (status[c] != kCorrelationDone) worst = status[c];
  }
  delete[] top;
  return worst;
}

}  // namespace

const LossMapsKernels& loss_maps_kernels() {
  static constexpr LossMapsKernels kernels{&loss_maps};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
