// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/match.h"

#include "cpu/correlation_stream.h"
#include "cpu/rank_select.h"
#include "cpu/row_softmax.h"
#include "cpu/subcell_peak.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// Candidate lists of the ratio test stay below this together; more descriptors take another pass.
constexpr std::int64_t kRankBytes = std::int64_t(128) << 20;

struct MatchSink {
  SoftmaxRow* rows;
  RankList* lists;  // or null
  std::int64_t first, rank;
  float scale;  // log2(e) / T
  bool moment;

  void visit(std::int64_t row, const float* values, std::int64_t count, std::int64_t cell) {
    SoftmaxRow& state = rows[row - first];
    const float largest = moment ? visit_cells<true>(state, values, count, cell, scale)
                                 : visit_cells<false>(state, values, count, cell, scale);
    if (lists) rank_visit(lists[row - first], values, count, rank, state.peak, largest);
  }
};

// Eq. 3.1: the best correlation over the one at the rank. Defined for every sign: infinite when the best is
// positive and the other is not, 1 when both are zero.
float ratio(float best, float other) {
  if (best > 0.0f && other <= 0.0f) return HUGE_VALF;
  return best == other ? 1.0f : best / other;
}

void write_rows(const CorrelationProblem& problem, const MatchOptions& options, const MatchOutput& out,
                const MatchSink& sink, std::int64_t count) {
  for (std::int64_t r = 0; r < count; ++r) {
    const SoftmaxRow& row = sink.rows[r];
    const std::int64_t n = sink.first + r;
    out.xy[2 * n] = double(row.cell % problem.width);
    out.xy[2 * n + 1] = double(row.cell / problem.width);
    out.log_probability[n] = float(-std::log(row.sum));
    if (out.entropy) {
      const double entropy = std::log(row.sum) - 0.6931471805599453 * row.moment / row.sum;
      out.entropy[n] = float(entropy > 0.0 ? entropy : 0.0);
    }
    if (sink.lists) {
      out.quantile_ratio[n] = ratio(row.peak, rank_result(sink.lists[r], options.rank, row.peak));
    }
  }
}

void add_subcell(const CorrelationProblem& problem, double* xy) {
  constexpr std::int64_t kChunk = 16;
  runtime::parallel_for((problem.count + kChunk - 1) / kChunk, problem.num_threads, [&](std::int64_t chunk) {
    const std::int64_t end = (chunk + 1) * kChunk < problem.count ? (chunk + 1) * kChunk : problem.count;
    for (std::int64_t n = chunk * kChunk; n < end; ++n) {
      double dx, dy;
      subcell_offset(problem, n, std::int64_t(xy[2 * n]), std::int64_t(xy[2 * n + 1]), dx, dy);
      xy[2 * n] += dx;
      xy[2 * n + 1] += dy;
    }
  });
}

int match(const CorrelationProblem& problem, const MatchOptions& options, const MatchOutput& output) {
  if (problem.count == 0) return kCorrelationDone;
  static_assert(kTileCells <= kRankRun);
  const std::int64_t list = options.rank > 0 ? rank_capacity(options.rank) : 0;
  std::int64_t group = problem.count;
  if (list > 0 && group * list * 4 > kRankBytes) {
    group = round_up(kRankBytes / (list * 4) + 1, kTileRows);
    if (group > problem.count) group = problem.count;
  }
  Scratch<SoftmaxRow> rows(static_cast<std::size_t>(group));
  Scratch<RankList> lists(static_cast<std::size_t>(list > 0 ? group : 0));
  Scratch<float> values(static_cast<std::size_t>(list * group));
  if (!rows || !lists || !values) return kOutOfMemory;
  CorrelationStream stream(problem);
  const float scale = float(1.4426950408889634 / options.temperature);
  for (std::int64_t first = 0; first < problem.count; first += group) {
    const std::int64_t count = problem.count - first < group ? problem.count - first : group;
    for (std::int64_t r = 0; r < count; ++r) rows[r] = empty_softmax_row();
    for (std::int64_t r = 0; list > 0 && r < count; ++r) lists[r] = {values.data() + r * list, 0, -HUGE_VALF};
    MatchSink sink{rows.data(), list > 0 ? lists.data() : nullptr, first, options.rank,
                   scale,       output.entropy != nullptr};
    int status = stream.begin(first, count);
    if (status == kCorrelationDone) status = stream.run(sink);
    if (status == kCorrelationDone && !(stream.bound() * double(scale) < 1e37)) status = kProductsTooLarge;
    if (status != kCorrelationDone) return status;
    write_rows(problem, options, output, sink, count);
  }
  if (options.subcell) add_subcell(problem, output.xy);
  return kCorrelationDone;
}

}  // namespace

const MatchKernels& match_kernels() {
  static constexpr MatchKernels kernels{&match};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
