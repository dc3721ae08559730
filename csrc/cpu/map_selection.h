// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Which maps a consensus loop samples and scores: the most peaked of those that carry information.
#pragma once

#include "cpu/simd.h"
#include "pyloc/consensus.h"
#include "pyloc/msac.h"

PYLOC_NAMESPACE_BEGIN

// What map n can say, with its best cell: the entry of the largest gain, the first in storage order when
// several are equal; -1 for an empty map. consensus.h's map_evidence with the loops over packs.
inline MapEvidence peak_of_map(const LossMapsView& maps, std::int64_t n, std::int64_t& entry) {
  const std::int64_t begin = maps.row_ptr[n], end = maps.row_ptr[n + 1];
  entry = -1;
  if (begin == end) return {0.0f, 0.0f, false};
  PackF lanes(0.0f);
  std::int64_t i = begin;
  for (; i + PackF::kWidth <= end; i += PackF::kWidth) lanes = max_(PackF::load(maps.gain + i), lanes);
  float peak = reduce_max(lanes);
  for (; i < end; ++i) peak = max_(maps.gain[i], peak);
  const float half = kConsistentShare * peak;
  PackF counts(0.0f);
  for (i = begin; i + PackF::kWidth <= end; i += PackF::kWidth)
    counts = counts + select(PackF::load(maps.gain + i) >= half, PackF(1.0f), PackF(0.0f));
  double high = double(reduce_add(counts));
  for (; i < end; ++i) high += maps.gain[i] >= half;
  for (entry = begin; maps.gain[entry] != peak;) ++entry;
  const float flat = maps.flat_gain ? maps.flat_gain[n] : 0.0f;
  return {peak, float(high / (double(maps.window_w) * double(maps.window_h))), peak - flat > kUsableGain};
}

// The maps of the problem that carry information, and the most peaked of them.
struct MapSelection {
  Scratch<float> peak;              // (N)
  Scratch<std::int64_t> entry;      // (N): index of the best cell
  Scratch<int> usable, scratch;     // (N): usable maps, largest peak first
  Scratch<std::uint8_t> is_usable;  // (N)
  int num_usable = 0, num_sampled = 0;
  double chance = 0.0;  // mean probability that a usable map agrees with a wrong pose

  explicit MapSelection(std::size_t n) : peak(n), entry(n), usable(n), scratch(n), is_usable(n) {}
  bool ok() const { return peak && entry && usable && scratch && is_usable; }

  // False when memory ran out.
  bool run(const LossMapsView& maps, double top_fraction) {
    Scratch<float> keys(std::size_t(maps.count));
    Scratch<int> rank(std::size_t(maps.count)), index(std::size_t(maps.count));
    if (!keys || !rank || !index) return false;
    for (std::int64_t n = 0; n < maps.count; ++n) {
      const MapEvidence evidence = peak_of_map(maps, n, entry[n]);
      peak[n] = evidence.peak;
      is_usable[n] = evidence.usable;
      if (!evidence.usable) continue;
      chance += double(evidence.share);
      keys[num_usable] = peak[n];
      index[num_usable++] = int(n);
    }
    if (num_usable) chance /= double(num_usable);
    rank_descending(keys.data(), num_usable, rank.data(), scratch.data());
    for (int k = 0; k < num_usable; ++k) usable[k] = index[rank[k]];
    const double wanted = ::ceil(top_fraction * double(num_usable));
    num_sampled = int(min_(max_(wanted, double(kMsacMinSampled)), double(num_usable)));
    return true;
  }
};

PYLOC_NAMESPACE_END
