// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/correlation_maps.h"

#include "cpu/correlation_stream.h"
#include "cpu/row_softmax.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

struct DenseSink {
  SoftmaxRow* rows;  // or null: no softmax
  float* maps;
  std::int64_t cells;
  float scale, inverse_temperature;

  void visit(std::int64_t row, const float* values, std::int64_t count, std::int64_t cell) {
    float* out = maps + row * cells + cell;
    if (rows) visit_cells<false>(rows[row], values, count, cell, scale);
    const float factor = rows ? 1.0f : inverse_temperature;
    for (std::int64_t i = 0; i < count; ++i) out[i] = values[i] * factor;
  }
};

// C = 2^((c - peak) * scale) / sum, in place.
void normalise(const SoftmaxRow& row, float scale, std::int64_t cells, float* map) {
  const float inverse = float(1.0 / row.sum);
  constexpr int W = PackF::kWidth;
  for (std::int64_t i = 0; i < cells; i += W) {
    const int lanes = cells - i < W ? int(cells - i) : W;
    const PackF c = PackF::load_partial(map + i, lanes, row.peak);
    (exp2_nonpositive_((c - row.peak) * scale) * inverse).store_partial(map + i, lanes);
  }
}

int correlation_maps(const CorrelationProblem& problem, double temperature, bool softmax, float* maps) {
  if (problem.count == 0) return kCorrelationDone;
  Scratch<SoftmaxRow> rows(static_cast<std::size_t>(softmax ? problem.count : 0));
  if (!rows) return kOutOfMemory;
  for (std::int64_t r = 0; softmax && r < problem.count; ++r) rows[r] = empty_softmax_row();
  const std::int64_t cells = problem.height * problem.width;
  const float scale = float(1.4426950408889634 / temperature);
  DenseSink sink{softmax ? rows.data() : nullptr, maps, cells, scale, float(1.0 / temperature)};
  CorrelationStream stream(problem);
  int status = stream.begin(0, problem.count);
  if (status == kCorrelationDone) status = stream.run(sink);
  if (status == kCorrelationDone && !(stream.bound() * double(scale) < 1e37)) status = kProductsTooLarge;
  if (status == kCorrelationDone && softmax)
    runtime::parallel_for(problem.count, problem.num_threads, [&](std::int64_t n) {
      normalise(rows[std::size_t(n)], scale, cells, maps + n * cells);
    });
  return status;
}

}  // namespace

const CorrelationMapsKernels& correlation_maps_kernels() {
  static constexpr CorrelationMapsKernels kernels{&correlation_maps};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
