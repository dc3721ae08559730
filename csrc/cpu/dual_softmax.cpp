// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Three readings of the scores: row sums and column peaks, column sums, results. Blocks of rows keep peaks
// and sums of columns of their own, which are brought together in order: the bits do not depend on the
// threads.
#include "cpu/dual_softmax.h"

#include "cpu/row_softmax.h"
#include "cpu/simd_math.h"
#include "cpu/sinkhorn_sweep.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr int W = PackF::kWidth;
constexpr std::int64_t kBlock = 64;  // rows of one task

struct Pass {
  const DualSoftmaxProblem& p;
  std::int64_t blocks, ld, threads;
  PackF scale;
  Scratch<float> columns;  // (B, blocks, 3, ld): peaks and sums of the block, scratch
  int refused = 0;

  explicit Pass(const DualSoftmaxProblem& problem)
      : p(problem),
        blocks((p.rows + kBlock - 1) / kBlock),
        ld(round_up(p.columns, kSweepColumns)),
        threads(p.num_threads > 0 ? p.num_threads : runtime::default_num_threads()),
        scale(float(1.0 / p.temperature)),
        columns(std::size_t(p.batch * blocks * 3 * ld)) {}

  float* peaks(std::int64_t b, std::int64_t block) { return columns.data() + (b * blocks + block) * 3 * ld; }
  float* sums(std::int64_t b, std::int64_t block) { return peaks(b, block) + ld; }
  float* scratch(std::int64_t b, std::int64_t block) { return peaks(b, block) + 2 * ld; }
  ScoreRows rows(std::int64_t b) const {
    const std::int64_t element = p.dtype == kFloat32 ? 4 : 2;
    return {static_cast<const char*>(p.scores) + b * p.rows * p.columns * element,
            p.dtype,
            p.columns,
            p.num_rows ? p.num_rows[b] : p.rows,
            p.num_columns ? p.num_columns[b] : p.columns,
            0,
            0.0f};
  }
  template <class Body>
  void for_blocks(const Body& body) {
    const auto at = [&](std::int64_t t) { body(t / blocks, t % blocks); };
    if (threads > 1) return runtime::parallel_for(p.batch * blocks, int(threads), at);
    for (std::int64_t t = 0; t < p.batch * blocks; ++t) at(t);
  }
  template <class Body>
  void for_items(const Body& body) {
    if (threads > 1) return runtime::parallel_for(p.batch, int(threads), body);
    for (std::int64_t b = 0; b < p.batch; ++b) body(b);
  }
  // The rows of a block that count: body(i, row).
  template <class Body>
  void for_rows(std::int64_t b, std::int64_t block, const Body& body) {
    const ScoreRows scores = rows(b);
    const std::int64_t first = block * kBlock;
    for (std::int64_t i = first; i < first + kBlock && i < scores.rows; ++i) {
      ScoreRow row;
      scores.view(i, ld, scratch(b, block), row);
      body(i, row);
    }
  }
};

PYLOC_INLINE PackF finite_or_zero(PackF x) { return select(x > kNothing, x, PackF(0.0f)); }
float finite_or_zero(float x) { return x > kNothing ? x : 0.0f; }

// Peaks and log-sums, relative to them, of the rows, and peaks of the columns; false for what is refused.
// Peaks are of S itself: (S - peak) / T then loses nothing where S / T is large.
bool sum_rows(Pass& pass, std::int64_t b, std::int64_t block, float* row_peak, float* row_log) {
  float* peaks = pass.peaks(b, block);
  for (std::int64_t c = 0; c < pass.ld; ++c) peaks[c] = kNothing;
  bool good = true;
  pass.for_rows(b, block, [&](std::int64_t i, const ScoreRow& row) {
    PackF top(kNothing), sum(0.0f);
    for (std::int64_t c = 0; c < pass.ld; c += W) {
      const PackF x = row.at(c);
      top = max_(x, top);
      max_(x, PackF::load(peaks + c)).store(peaks + c);
    }
    const float peak = finite_or_zero(reduce_max(top));
    if (row.has_refused(pass.ld) || !(std::fabs(peak) * pass.scale[0] < HUGE_VALF)) good = false;
    for (std::int64_t c = 0; c < pass.ld; c += W)
      sum = sum + exp_below_((row.at(c) - PackF(peak)) * pass.scale);
    const float total = reduce_add(sum);
    row_peak[i] = peak;
    row_log[i] = total > 0.0f ? std::log(total) : kNothing;
  });
  return good;
}

// Every block's peaks become those of all blocks, -inf as 0.
void share_peaks(Pass& pass, std::int64_t b) {
  for (std::int64_t c = 0; c < pass.ld; c += W) {
    PackF top(kNothing);
    for (std::int64_t k = 0; k < pass.blocks; ++k) top = max_(PackF::load(pass.peaks(b, k) + c), top);
    for (std::int64_t k = 0; k < pass.blocks; ++k) finite_or_zero(top).store(pass.peaks(b, k) + c);
  }
}

void sum_columns(Pass& pass, std::int64_t b, std::int64_t block) {
  float *sums = pass.sums(b, block), *peaks = pass.peaks(b, block);
  for (std::int64_t c = 0; c < pass.ld; ++c) sums[c] = 0.0f;
  pass.for_rows(b, block, [&](std::int64_t, const ScoreRow& row) {
    for (std::int64_t c = 0; c < pass.ld; c += W) {
      const PackF e = exp_below_((row.at(c) - PackF::load(peaks + c)) * pass.scale);
      (PackF::load(sums + c) + e).store(sums + c);
    }
  });
}

// The blocks' sums added up; `finish(total, c)` into the first block's.
template <class Finish>
void add_blocks(Pass& pass, std::int64_t b, const Finish& finish) {
  for (std::int64_t c = 0; c < pass.ld; c += W) {
    PackF total = PackF::load(pass.sums(b, 0) + c);
    for (std::int64_t k = 1; k < pass.blocks; ++k) total = total + PackF::load(pass.sums(b, k) + c);
    finish(total, c).store(pass.sums(b, 0) + c);
  }
}

void write_block(Pass& pass, std::int64_t b, std::int64_t block, const float* row_peak, const float* row_log,
                 void* out) {
  const DualSoftmaxProblem& p = pass.p;
  const float *column_peak = pass.peaks(b, 0), *column_log = pass.sums(b, 0);
  float* to = pass.scratch(b, block);
  const auto store = [&](std::int64_t i) {
    store_row(p.dtype, to, p.columns, out, (b * p.rows + i) * p.columns, 1);
  };
  pass.for_rows(b, block, [&](std::int64_t i, const ScoreRow& row) {
    const PackF peak(row_peak[i]), log_row(finite_or_zero(row_log[i]));
    for (std::int64_t c = 0; c < pass.ld; c += W) {
      const PackF s = row.at(c), log_column = finite_or_zero(PackF::load(column_log + c));
      const PackF by_row = (s - peak) * pass.scale - log_row;
      (by_row + ((s - PackF::load(column_peak + c)) * pass.scale - log_column)).store(to + c);
    }
    store(i);
  });
  for (std::int64_t c = 0; c < pass.ld; ++c) to[c] = kNothing;
  const std::int64_t valid = pass.rows(b).rows, first = block * kBlock;
  for (std::int64_t i = first > valid ? first : valid; i < first + kBlock && i < p.rows; ++i) store(i);
}

int forward(const DualSoftmaxProblem& p, const DualSoftmaxOutput& out) {
  if (p.batch == 0) return kDualSoftmaxDone;
  Pass pass(p);
  Scratch<float> row_peak(std::size_t(p.batch * p.rows));
  if (!pass.columns || !row_peak) return kDualSoftmaxOutOfMemory;
  const auto of = [&](float* rows, std::int64_t b) { return rows + b * p.rows; };
  for (std::int64_t i = 0; i < p.batch * p.rows; ++i) out.row_log_sum[i] = kNothing;
  pass.for_blocks([&](std::int64_t b, std::int64_t k) {
    if (!sum_rows(pass, b, k, of(row_peak.data(), b), of(out.row_log_sum, b)))
      __atomic_store_n(&pass.refused, 1, __ATOMIC_RELAXED);
  });
  if (pass.refused) return kDualSoftmaxScores;
  pass.for_items([&](std::int64_t b) { share_peaks(pass, b); });
  pass.for_blocks([&](std::int64_t b, std::int64_t k) { sum_columns(pass, b, k); });
  pass.for_items([&](std::int64_t b) {
    add_blocks(pass, b, [](PackF sum, std::int64_t) {
      const PackMask<float> some = sum > 0.0f;
      return select(some, log_(select(some, sum, PackF(1.0f))), PackF(kNothing));
    });
  });
  pass.for_blocks([&](std::int64_t b, std::int64_t k) {
    write_block(pass, b, k, of(row_peak.data(), b), of(out.row_log_sum, b), out.log_assignment);
  });
  pass.for_items([&](std::int64_t b) {  // now with their peaks
    for (std::int64_t i = 0; i < pass.rows(b).rows; ++i)
      of(out.row_log_sum, b)[i] += of(row_peak.data(), b)[i] * pass.scale[0];
    for (std::int64_t j = 0; j < p.columns; ++j)
      out.column_log_sum[b * p.columns + j] = pass.sums(b, 0)[j] + pass.peaks(b, 0)[j] * pass.scale[0];
  });
  return kDualSoftmaxDone;
}

// The slope's row i, without entries whose score is -inf; `rest` lanes of the last pack read nothing.
PYLOC_INLINE PackF slope_at(const float* slope, std::int64_t c, std::int64_t columns, PackF score) {
  const PackF g = c + W <= columns ? PackF::load(slope + c)
                                   : PackF::load_partial(slope + c, c < columns ? int(columns - c) : 0);
  return select(score > kNothing, g, PackF(0.0f));
}

// The parts of one entry: weights of the two softmaxes, from log-sums whose rounding their sums undo.
struct Weights {
  PackF by_row, by_column;
};
PYLOC_INLINE Weights weights_at(PackF x, float log_row, const float* log_column, std::int64_t c) {
  return {exp_close_(x - PackF(log_row)), exp_close_(x - PackF::load(log_column + c))};
}

// dS = (2 G - softmax over the row * sum_j G - softmax over the column * sum_i G) / T.
struct Backward {
  const DualSoftmaxProblem& p;
  const DualSoftmaxGradients& d;
  Pass pass;
  Scratch<float> by_row;   // (B, m): slope per unit of weight
  Scratch<float> columns;  // (B, 2, ld): log-sums; slope per unit of weight
  Scratch<float> totals;   // (B, blocks, ld): sums of the columns' weights

  Backward(const DualSoftmaxProblem& problem, const DualSoftmaxGradients& gradients)
      : p(problem),
        d(gradients),
        pass(problem),
        by_row(std::size_t(p.batch * p.rows)),
        columns(std::size_t(p.batch * 2 * pass.ld)),
        totals(std::size_t(p.batch * pass.blocks * pass.ld)) {}

  float* log_columns(std::int64_t b) { return columns.data() + b * 2 * pass.ld; }
  float* by_column(std::int64_t b) { return log_columns(b) + pass.ld; }
  float* total(std::int64_t b, std::int64_t k) { return totals.data() + (b * pass.blocks + k) * pass.ld; }
  const float* slope(std::int64_t b, std::int64_t i) const { return d.slope + (b * p.rows + i) * p.columns; }
  float log_row(std::int64_t b, std::int64_t i) const {
    return finite_or_zero(d.row_log_sum[b * p.rows + i]);
  }

  void load_columns(std::int64_t b) {
    const float* from = d.column_log_sum + b * p.columns;
    for (std::int64_t c = 0; c < pass.ld; ++c)
      log_columns(b)[c] = c < p.columns ? finite_or_zero(from[c]) : 0.0f;
  }
  void sum_block(std::int64_t b, std::int64_t k) {
    float *sums = pass.sums(b, k), *weight = total(b, k);
    for (std::int64_t c = 0; c < pass.ld; ++c) sums[c] = weight[c] = 0.0f;
    pass.for_rows(b, k, [&](std::int64_t i, const ScoreRow& row) {
      PackF all(0.0f), whole(0.0f);
      for (std::int64_t c = 0; c < pass.ld; c += W) {
        const PackF s = row.at(c), g = slope_at(slope(b, i), c, p.columns, s);
        const Weights w = weights_at(s * pass.scale, log_row(b, i), log_columns(b), c);
        all = all + g;
        whole = whole + w.by_row;
        (PackF::load(sums + c) + g).store(sums + c);
        (PackF::load(weight + c) + w.by_column).store(weight + c);
      }
      const float weight_of_row = reduce_add(whole);
      by_row[std::size_t(b * p.rows + i)] = weight_of_row > 0.0f ? reduce_add(all) / weight_of_row : 0.0f;
    });
  }
  void join_columns(std::int64_t b) {
    for (std::int64_t c = 0; c < pass.ld; c += W) {
      PackF slopes(0.0f), weight(0.0f);
      for (std::int64_t k = 0; k < pass.blocks; ++k) {
        slopes = slopes + PackF::load(pass.sums(b, k) + c);
        weight = weight + PackF::load(total(b, k) + c);
      }
      select(weight > 0.0f, slopes / weight, PackF(0.0f)).store(by_column(b) + c);
    }
  }
  void write_block(std::int64_t b, std::int64_t k) {
    float* to = pass.scratch(b, k);
    const auto store = [&](std::int64_t i) {
      std::memcpy(d.d_scores + (b * p.rows + i) * p.columns, to, sizeof(float) * std::size_t(p.columns));
    };
    pass.for_rows(b, k, [&](std::int64_t i, const ScoreRow& row) {
      const PackF row_slope(by_row[std::size_t(b * p.rows + i)]);
      for (std::int64_t c = 0; c < pass.ld; c += W) {
        const PackF s = row.at(c), g = slope_at(slope(b, i), c, p.columns, s);
        const Weights w = weights_at(s * pass.scale, log_row(b, i), log_columns(b), c);
        ((g + g - w.by_row * row_slope - w.by_column * PackF::load(by_column(b) + c)) * pass.scale)
            .store(to + c);
      }
      store(i);
    });
    for (std::int64_t c = 0; c < pass.ld; ++c) to[c] = 0.0f;
    const std::int64_t valid = pass.rows(b).rows, first = k * kBlock;
    for (std::int64_t i = first > valid ? first : valid; i < first + kBlock && i < p.rows; ++i) store(i);
  }
};

int backward(const DualSoftmaxProblem& p, const DualSoftmaxGradients& d) {
  if (p.batch == 0) return kDualSoftmaxDone;
  Backward work(p, d);
  if (!work.pass.columns || !work.by_row || !work.columns || !work.totals) return kDualSoftmaxOutOfMemory;
  work.pass.for_items([&](std::int64_t b) { work.load_columns(b); });
  work.pass.for_blocks([&](std::int64_t b, std::int64_t k) { work.sum_block(b, k); });
  work.pass.for_items([&](std::int64_t b) { work.join_columns(b); });
  work.pass.for_blocks([&](std::int64_t b, std::int64_t k) { work.write_block(b, k); });
  return kDualSoftmaxDone;
}

}  // namespace

const DualSoftmaxKernels& dual_softmax_kernels() {
  static constexpr DualSoftmaxKernels kernels{&forward, &backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
