// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Sub-cell position of a peak: the maximum of the quadratic through the 3 x 3 correlations around it, which
// are evaluated again, since the stream kept nothing. On a log-probability this is the centre of a Gaussian.
#pragma once

#include "cpu/correlation_problem.h"
#include "cpu/interpolation.h"
#include "cpu/tile_pack.h"

PYLOC_NAMESPACE_BEGIN

inline double load_element(const void* data, int dtype, std::int64_t i) {
  if (dtype == kFloat16) return LoadFloat16::load(static_cast<const std::uint16_t*>(data) + i);
  if (dtype == kBFloat16) return LoadBf16::load(static_cast<const std::uint16_t*>(data) + i);
  return static_cast<const float*>(data)[i];
}

inline double cell_product(const cpu::CorrelationLevel& level, std::int64_t row, std::int64_t x,
                           std::int64_t y) {
  const std::int64_t h = row * level.depth, f = (y * level.width + x) * level.cell_stride;
  double sum = 0.0;
  for (std::int64_t d = 0; d < level.depth; ++d)
    sum += load_element(level.descriptors, level.descriptor_dtype, h + d) *
           load_element(level.features, level.feature_dtype, f + d * level.plane_stride);
  return sum;
}

// c_row at a cell of the map: levels of its size directly, the others interpolated from four of their cells.
inline double correlation_at(const cpu::CorrelationProblem& problem, std::int64_t row, std::int64_t x,
                             std::int64_t y) {
  double sum = 0.0;
  for (int i = 0; i < problem.n_levels; ++i) {
    const cpu::CorrelationLevel& level = problem.levels[i];
    if (level.height == problem.height && level.width == problem.width) {
      sum += cell_product(level, row, x, y);
      continue;
    }
    const Tap u = interpolation_tap(x, problem.width, level.width);
    const Tap v = interpolation_tap(y, problem.height, level.height);
    const double top = (1.0 - u.weight) * cell_product(level, row, u.low, v.low) +
                       double(u.weight) * cell_product(level, row, u.high, v.low);
    const double bottom = (1.0 - u.weight) * cell_product(level, row, u.low, v.high) +
                          double(u.weight) * cell_product(level, row, u.high, v.high);
    sum += (1.0 - v.weight) * top + double(v.weight) * bottom;
  }
  return sum;
}

// Vertex of the parabola through (-1, low), (0, middle), (1, high), kept within half a cell.
inline double parabola_vertex(double low, double middle, double high) {
  const double curvature = low - 2.0 * middle + high;
  if (!(curvature < 0.0)) return 0.0;
  const double at = 0.5 * (low - high) / curvature;
  return at < -0.5 ? -0.5 : at > 0.5 ? 0.5 : at;
}

// Offset of the peak from cell (x, y). On the border, or where the quadratic is no maximum within half a
// cell, each axis by itself; an axis without both neighbours stays at the cell.
inline void subcell_offset(const cpu::CorrelationProblem& problem, std::int64_t row, std::int64_t x,
                           std::int64_t y, double& dx, double& dy) {
  const bool inner_x = x > 0 && x + 1 < problem.width, inner_y = y > 0 && y + 1 < problem.height;
  const auto at = [&](int i, int j) { return correlation_at(problem, row, x + i, y + j); };
  const double centre = at(0, 0);
  double left = 0, right = 0, up = 0, down = 0;
  dx = dy = 0.0;
  if (inner_x) dx = parabola_vertex(left = at(-1, 0), centre, right = at(1, 0));
  if (inner_y) dy = parabola_vertex(up = at(0, -1), centre, down = at(0, 1));
  if (!inner_x || !inner_y) return;
  const double gx = 0.5 * (right - left), gy = 0.5 * (down - up);
  const double hxx = left - 2.0 * centre + right, hyy = up - 2.0 * centre + down;
  const double hxy = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1));
  const double det = hxx * hyy - hxy * hxy;
  if (!(hxx < 0.0 && det > 1e-3 * hxx * hyy)) return;
  const double ux = (hxy * gy - hyy * gx) / det, uy = (hxy * gx - hxx * gy) / det;
  if (std::fabs(ux) <= 1.0 && std::fabs(uy) <= 1.0) {
    dx = ux;
    dy = uy;
  }
}

PYLOC_NAMESPACE_END
