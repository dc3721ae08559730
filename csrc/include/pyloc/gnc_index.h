// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Which entries of a sparse map can lie near a point, without looking at them.
//
// Entries lie row by row. For every block of 16 entries the row of the first one is kept; counting over
// those few integers gives the blocks that can hold cells within reach of the point, and the rest of the map
// is never touched. The CPU counts with SIMD (csrc/cpu/gnc_entries.h), a GPU thread in its registers.
#pragma once

#include "pyloc/loss_map.h"

PYLOC_NAMESPACE_BEGIN

constexpr std::int64_t kEntriesPerBlock = 16;
// First rows are padded to whole groups of 16 with rows that no map has; map n starts at group
// row_ptr[n] / 256 + n.
constexpr std::int64_t kBlocksPerGroup = 16;
constexpr std::int16_t kNoRow = 32767;
// Cells beyond this many sigma are left out: exp(-4.5^2 / 2) = 4e-5 of the peak weight.
constexpr double kReachSigmas = 4.5;
// How far outside the map a projection may lie and still be given weight.
constexpr double kOutside = 700.0;

PYLOC_HD PYLOC_INLINE std::int64_t first_group(const LossMapsView& maps, std::int64_t n) {
  return maps.row_ptr[n] / (kEntriesPerBlock * kBlocksPerGroup) + n;
}
// Rows that the index of `maps` maps with `entries` entries has room for.
PYLOC_HD PYLOC_INLINE std::int64_t index_capacity(std::int64_t entries, std::int64_t maps) {
  return (entries / (kEntriesPerBlock * kBlocksPerGroup) + maps + 1) * kBlocksPerGroup;
}

struct EntryRange {
  std::int64_t begin, end;
};

// A point as an integer cell and a fraction, so that differences to cells stay exact in float32, and the
// entries near it.
struct NearEntries {
  std::int64_t begin;
  std::int32_t count, x, y;
  float fx, fy;
};

struct alignas(16) RowGroup {
  std::int16_t row[kBlocksPerGroup];
};

// Entries of map n, in whole blocks, that include all with low <= row <= high; low >= 0, high < kNoRow.
// `first_rows` must be aligned to 16 bytes.
PYLOC_HD inline EntryRange entries_between(const LossMapsView& maps, const std::int16_t* first_rows,
                                           std::int64_t n, int low, int high) {
  const std::int64_t begin = maps.row_ptr[n], end = maps.row_ptr[n + 1];
  const RowGroup* groups = reinterpret_cast<const RowGroup*>(first_rows) + first_group(maps, n);
  int skip = 0, keep = 0;
  for (std::int64_t i = begin; i < end; i += kEntriesPerBlock * kBlocksPerGroup, ++groups) {
    const RowGroup rows = *groups;
    for (int k = 0; k < kBlocksPerGroup; ++k) {
      skip += rows.row[k] < low ? 1 : 0;
      keep += rows.row[k] <= high ? 1 : 0;
    }
  }
  if (skip > 0) --skip;  // the block before may end inside the rows
  const std::int64_t last = begin + keep * kEntriesPerBlock;
  return {begin + skip * kEntriesPerBlock, last < end ? last : end};
}

// (px, py) must lie within kOutside cells of the map.
PYLOC_HD inline NearEntries near_entries(const LossMapsView& maps, const std::int16_t* first_rows,
                                         std::int64_t n, double px, double py, double sigma) {
  const double x = ::floor(px), y = ::floor(py), reach = kReachSigmas * sigma;
  const int low = int(::floor(max_(py - reach, 0.0))), high = int(::floor(min_(py + reach, 32766.0)));
  const EntryRange range = entries_between(maps, first_rows, n, low, high);
  return {range.begin,     std::int32_t(range.end - range.begin),
          std::int32_t(x), std::int32_t(y),
          float(px - x),   float(py - y)};
}

PYLOC_NAMESPACE_END
