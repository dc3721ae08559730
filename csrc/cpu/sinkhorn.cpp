// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/sinkhorn.h"

#include "cpu/sinkhorn_implicit.h"
#include "cpu/sinkhorn_item.h"
#include "cpu/slot_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// Entries from which several threads work on one item; below, waiting for each other takes longer.
constexpr std::int64_t kSharedItem = 1 << 20;

std::int64_t full_rows(const SinkhornProblem& p) { return p.rows + (p.dustbin_sides & 1); }
std::int64_t full_columns(const SinkhornProblem& p) { return p.columns + (p.dustbin_sides >> 1); }

SinkhornInput item_input(const SinkhornProblem& p, std::int64_t b) {
  const std::int64_t element = p.dtype == kFloat32 ? 4 : 2;
  return {{static_cast<const char*>(p.scores) + b * p.rows * p.columns * element, p.dtype, p.columns,
           p.num_rows ? p.num_rows[b] : p.rows, p.num_columns ? p.num_columns[b] : p.columns, p.dustbin_sides,
           p.dustbin ? p.dustbin[b] : 0.0f},
          p.log_row_mass + b * p.row_mass_stride,
          p.rows,
          p.log_column_mass + b * p.column_mass_stride,
          p.columns};
}

SinkhornHistory item_history(const SinkhornProblem& p, const SinkhornOutput& out, std::int64_t b) {
  const std::int64_t m = full_rows(p), n = full_columns(p);
  return {out.u + b * m, out.v + b * n, p.batch * m, p.batch * n, p.rows, p.columns};
}

int threads_of(const SinkhornProblem& p) {
  int threads = p.num_threads > 0 ? p.num_threads : runtime::default_num_threads();
  if (threads > SlotPool::kMax) threads = SlotPool::kMax;
  return threads;
}

int threads_in_item(const SinkhornProblem& p) {
  return p.batch == 1 && p.rows * p.columns >= kSharedItem ? threads_of(p) : 1;
}

// Runs body(b, memory, threads within the item) for every item; the first item's status that is not 0.
template <class Body>
int for_items(const SinkhornProblem& p, std::int64_t slot_floats, const Body& body) {
  if (p.batch == 0) return kSinkhornDone;
  const int threads = threads_of(p);
  const int outer = int(p.batch < threads ? p.batch : threads);
  const int inner = threads_in_item(p);
  slot_floats = round_up(slot_floats, 16);
  Scratch<float> slots(std::size_t(slot_floats * outer));
  Scratch<int> statuses{std::size_t(p.batch)};
  if (!slots || !statuses) return kSinkhornOutOfMemory;
  SlotPool pool(outer);
  const auto each = [&](std::int64_t b) {
    const int slot = pool.acquire();
    statuses[b] = body(b, slots.data() + slot * slot_floats, inner);
    pool.release(slot);
  };
  if (outer > 1) {
    runtime::parallel_for(p.batch, outer, each);
  } else {
    for (std::int64_t b = 0; b < p.batch; ++b) each(b);
  }
  for (std::int64_t b = 0; b < p.batch; ++b)
    if (statuses[b]) return statuses[b];
  return kSinkhornDone;
}

// log P in the full layout; `row` is one compact row of scratch.
void write_plan(const SinkhornProblem& p, const SinkhornItem& item, std::int64_t b, void* out, float* row) {
  const std::int64_t m = full_rows(p), n = full_columns(p);
  const SinkhornInput in = item_input(p, b);
  const auto store = [&](std::int64_t i, const float* from, std::int64_t first, std::int64_t count) {
    store_row(p.dtype, from, count, out, (b * m + i) * n + first, 1);
  };
  for (std::int64_t i = 0; i < m; ++i) {
    const bool masked = i >= in.rows && i < p.rows;
    if (masked) {
      for (std::int64_t j = 0; j < n; ++j) row[j] = kNothing;
      store(i, row, 0, n);
      continue;
    }
    const std::int64_t compact = i < in.rows ? i : in.rows;
    if (in.columns == p.columns && p.dtype == kFloat32) {
      item.write_log_plan_row(compact, row, static_cast<float*>(out) + (b * m + i) * n);
      continue;
    }
    item.log_plan_row(compact, row);
    if (in.columns == p.columns) {
      store(i, row, 0, n);
      continue;
    }
    const float dustbin = row[in.columns];
    for (std::int64_t j = in.columns; j < p.columns; ++j) row[j] = kNothing;
    if (p.dustbin_sides >> 1) row[p.columns] = dustbin;
    store(i, row, 0, n);
  }
}

int forward(const SinkhornProblem& p, const SinkhornOutput& out) {
  const std::int64_t m = full_rows(p), n = full_columns(p);
  const std::int64_t item_floats = SinkhornItem::floats(m, n);
  const auto one = [&](std::int64_t b, float* memory, int threads) -> int {
    SinkhornItem item(memory);
    const int status = item.start(item_input(p, b));
    if (status) return status;
    SinkhornHistory history = item_history(p, out, b);
    const bool last_only = out.kept == 1;
    if (last_only) history.u_stride = history.v_stride = 0;
    const SinkhornHistory none{};
    const std::int64_t ran =
        item.solve(p.iterations, float(p.tolerance), last_only ? none : history, threads);
    if (ran < 0) return kSinkhornScores;
    if (last_only && out.u) item.keep_last(history);
    if (out.count) out.count[b] = std::int32_t(ran);
    write_plan(p, item, b, out.log_assignment, memory + item_floats);
    return kSinkhornDone;
  };
  return for_items(p, item_floats + SinkhornItem::padded_columns(n), one);
}

// The slope into compact rows, without what log P leaves out.
void gather_slope(const SinkhornProblem& p, const SinkhornGradients& d, std::int64_t b,
                  const SinkhornItem& item, float* g) {
  const std::int64_t m = full_rows(p), n = full_columns(p), ld = item.ld();
  const SinkhornInput in = item_input(p, b);
  for (std::int64_t i = 0; i < round_up(item.rows(), kSweepRows); ++i) {
    float* to = g + i * ld;
    std::memset(to, 0, sizeof(float) * std::size_t(ld));
    if (i >= item.rows()) continue;
    const std::int64_t at = (b * m + (i < in.rows ? i : p.rows)) * n;
    const float *slope = d.slope + at, *plan = static_cast<const float*>(d.forward.log_assignment) + at;
    for (std::int64_t j = 0; j < in.columns; ++j) to[j] = plan[j] > kNothing ? slope[j] : 0.0f;
    if (p.dustbin_sides >> 1) to[in.columns] = plan[p.columns] > kNothing ? slope[p.columns] : 0.0f;
  }
}

void spread(const float* from, std::int64_t valid, std::int64_t size, bool dustbin, float* to) {
  std::memcpy(to, from, sizeof(float) * std::size_t(valid));
  for (std::int64_t i = valid; i < size; ++i) to[i] = 0.0f;
  if (dustbin) to[size] = from[valid];
}

void write_gradients(const SinkhornProblem& p, const SinkhornGradients& d, std::int64_t b,
                     const SinkhornItem& item, const SinkhornAdjoint& adjoint, const float* g) {
  const SinkhornInput in = item_input(p, b);
  const std::int64_t ld = item.ld();
  double dustbin = 0.0;
  for (std::int64_t i = 0; i < p.rows; ++i)
    spread(g + i * ld, i < in.rows ? in.columns : 0, p.columns, false,
           d.d_scores + (b * p.rows + i) * p.columns);
  if (p.dustbin_sides & 1)
    for (std::int64_t j = 0; j < item.columns(); ++j) dustbin += double(g[in.rows * ld + j]);
  if (p.dustbin_sides >> 1)
    for (std::int64_t i = 0; i < in.rows; ++i) dustbin += double(g[i * ld + in.columns]);
  d.d_dustbin[b] = float(dustbin);
  spread(adjoint.row_mass(), in.rows, p.rows, p.dustbin_sides & 1, d.d_log_row_mass + b * full_rows(p));
  spread(adjoint.column_mass(), in.columns, p.columns, p.dustbin_sides >> 1,
         d.d_log_column_mass + b * full_columns(p));
}

int backward(const SinkhornProblem& p, const SinkhornGradients& d) {
  const std::int64_t m = full_rows(p), n = full_columns(p), kept = d.forward.kept;
  const std::int64_t item_floats = SinkhornItem::floats(m, n);
  const std::int64_t slope_floats = SinkhornItem::padded_rows(m) * SinkhornItem::padded_columns(n);
  const auto one = [&](std::int64_t b, float* memory, int threads) -> int {
    SinkhornItem item(memory);
    const int status = item.start(item_input(p, b));
    if (status) return status;
    float* g = memory + item_floats;
    SinkhornAdjoint adjoint(item, g + slope_floats, kept);
    gather_slope(p, d, b, item, g);
    const SinkhornHistory history = item_history(p, d.forward, b);
    const std::int64_t ran = d.forward.count[b] < kept ? d.forward.count[b] : kept;
    const bool good = d.implicit ? SinkhornImplicit(item, adjoint).run(g, history)
                                 : adjoint.unrolled(g, ran, history, threads);
    if (!good) return kSinkhornScores;
    write_gradients(p, d, b, item, adjoint, g);
    return kSinkhornDone;
  };
  return for_items(p, item_floats + slope_floats + SinkhornAdjoint::floats(m, n, kept, threads_in_item(p)),
                   one);
}

}  // namespace

const SinkhornKernels& sinkhorn_kernels() {
  static constexpr SinkhornKernels kernels{&forward, &backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
