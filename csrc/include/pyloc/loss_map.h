// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
//
// Sparse loss maps and their bilinear lookup.
//
// A loss map is L(p) = min(ln|O|, -ln C(p)) (thesis, Eq. 4.7). Only its live cells, those with
// L < ln|O|, are stored, as gain = ln|O| - L > 0. The maps are rows of a compressed matrix:
// the entries of map n are row_ptr[n] .. row_ptr[n + 1] - 1, sorted by row, then by column.
// Assumes what LossMaps (pyloc_core/maps.py) checks: sorted without repetition, cells inside
// the map (0 <= x < map_w <= 32000, 0 <= y < map_h <= 32000) and inside their window. A map padded
// beyond the image is no exception: its origin is taken out of the camera's principal point.
// Degenerate cases: an empty row is a map without information, gain 0 everywhere; a point that
// is not finite or lies a cell or more outside the map has gain 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

// Non-owning view of N maps; the arrays belong to the caller.
struct LossMapsView {
  int64_t count;           // N
  const int64_t* row_ptr;  // (N + 1)
  const int16_t* xy;       // (nnz, 2): column, row in map coordinates, not relative to a window
  const float* gain;       // (nnz): ln|O| - L, nats
  const int32_t* origins;  // (N, 2): map coordinates of a window's first cell; null: (0, 0)
  int32_t window_w, window_h;
  int32_t map_w, map_h;
  double log_cardinality;  // ln|O|
  const float* flat_gain;  // (N): gain of a map without preference; null: 0
};

// Cells compare in storage order through one integer: row first, then column.
PYLOC_HD PYLOC_INLINE uint32_t cell_key(int32_t x, int32_t y) {
  return (static_cast<uint32_t>(y) << 16) | static_cast<uint32_t>(x);
}

PYLOC_HD PYLOC_INLINE uint32_t cell_key_at(const int16_t* xy, int64_t i) {
  return (static_cast<uint32_t>(static_cast<uint16_t>(xy[2 * i + 1])) << 16) |
         static_cast<uint32_t>(static_cast<uint16_t>(xy[2 * i]));
}

// First position in [begin, end) whose cell is not before `key`. The halving has no branch on
// the data: about 8 dependent loads for 256 entries.
PYLOC_HD PYLOC_INLINE int64_t lower_bound_cell(const int16_t* xy, int64_t begin, int64_t end, uint32_t key) {
  int64_t length = end - begin;
  while (length > 1) {
    const int64_t half = length >> 1;
    begin += (cell_key_at(xy, begin + half - 1) < key) ? half : 0;
    length -= half;
  }
  return (length == 1 && cell_key_at(xy, begin) < key) ? begin + 1 : begin;
}

// Gains of the cells (x, y) and (x + 1, y); returns where the search stopped, which is where a
// search for a later row may begin.
PYLOC_HD PYLOC_INLINE int64_t gain_pair(const LossMapsView& maps, int64_t begin, int64_t end, int32_t x,
                                        int32_t y, float out[2]) {
  out[0] = 0.0f;
  out[1] = 0.0f;
  if (y < 0 || y >= maps.map_h) return begin;
  const int32_t first = x < 0 ? 0 : x;  // x = -1: only the right cell can be live
  const int64_t at = lower_bound_cell(maps.xy, begin, end, cell_key(first, y));
  const int64_t stop = at + 2 < end ? at + 2 : end;
  for (int64_t i = at; i < stop; ++i) {
    const int32_t column = maps.xy[2 * i] - x;
    if (maps.xy[2 * i + 1] == y && column >= 0 && column <= 1) out[column] = maps.gain[i];
  }
  return at;
}

// Bilinear gain of map n at map point (px, py), Eq. 4.3 and 4.6 with the fractional parts
// p - floor(p). Cells that are dead or outside the map have gain 0.
// `slope`, when not null, receives d gain / d (px, py).
template <class T>
PYLOC_HD PYLOC_INLINE T bilinear_gain(const LossMapsView& maps, int64_t n, T px, T py, T* slope = nullptr) {
  if (slope) {
    slope[0] = T(0);
    slope[1] = T(0);
  }
  // Written so that NaN fails: floor() of what passes fits an int32.
  if (!(px > T(-1) && px < T(maps.map_w) && py > T(-1) && py < T(maps.map_h))) return T(0);
  const int64_t begin = maps.row_ptr[n], end = maps.row_ptr[n + 1];
  // Truncation is floor() here, because px + 1 and py + 1 are not negative.
  const int32_t x0 = static_cast<int32_t>(px + T(1)) - 1;
  const int32_t y0 = static_cast<int32_t>(py + T(1)) - 1;
  const T ax = px - T(x0), ay = py - T(y0);
  float top[2], bottom[2];
  const int64_t at = gain_pair(maps, begin, end, x0, y0, top);
  gain_pair(maps, at, end, x0, y0 + 1, bottom);
  const T upper = T(top[0]) + ax * (T(top[1]) - T(top[0]));
  const T lower = T(bottom[0]) + ax * (T(bottom[1]) - T(bottom[0]));
  if (slope) {
    slope[0] = (T(1) - ay) * (T(top[1]) - T(top[0])) + ay * (T(bottom[1]) - T(bottom[0]));
    slope[1] = lower - upper;
  }
  return upper + ay * (lower - upper);
}

PYLOC_NAMESPACE_END
