// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What every M-estimator sample consensus loop of the library shares (Torr and Zisserman, "MLESAC",
// CVIU 2000; Fischler and Bolles, CACM 1981): the order of hypotheses, the adaptive stop, the rounds
// and the pool of the best.
//
// Contract: hypotheses are numbered 4 * triplet + root, poses given by the caller from -4 * K upwards.
// A larger gain wins, equal gains go to the lower number. Gains that enter a pool are float64. The
// result is therefore a function of (data, seed) alone: not of threads, devices or the order of work.
#pragma once

#include <cstring>

#include "pyloc/config.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kMsacRoots = 4;                     // solution slots of a P3P problem
constexpr std::int64_t kMsacFirstRound = 64;      // triplets
constexpr std::int64_t kMsacLargestRound = 1024;  // triplets
constexpr std::int64_t kMsacMinIterations = 128;
constexpr std::int64_t kMsacMaxIterations = 20000;
constexpr int kMsacFinalists = 4;    // ranked once more, over all usable maps
constexpr int kMsacMinSampled = 16;  // the sampled share never falls below this many maps

// Triplets after which one free of outliers has been drawn with the given confidence, when a share
// `consistent` of the sampled set agrees with the best pose: smallest k with 1 - (1 - w^3)^k >= p.
// Held between the two bounds above.
PYLOC_HD inline std::int64_t required_triplets(double consistent, double confidence) {
  const double good = consistent * consistent * consistent;
  if (!(good > 0.0)) return kMsacMaxIterations;
  if (good >= 1.0) return kMsacMinIterations;
  if (confidence >= 1.0) return kMsacMaxIterations;
  // log1p keeps its precision where good is tiny.
  const double k = ::ceil(::log1p(-confidence) / ::log1p(-good));
  if (!(k < double(kMsacMaxIterations))) return kMsacMaxIterations;
  return k > double(kMsacMinIterations) ? std::int64_t(k) : kMsacMinIterations;
}

// Triplets of the next round: doubling from 64 to 1024, cut to what is still wanted. The bound that
// lets a round abandon hypotheses is fixed when the round starts, so early rounds are short.
PYLOC_HD inline std::int64_t round_size(std::int64_t done, std::int64_t wanted) {
  std::int64_t size = done < kMsacFirstRound ? kMsacFirstRound : done;
  if (size > kMsacLargestRound) size = kMsacLargestRound;
  return size < wanted - done ? size : wanted - done;
}

struct MsacHypothesis {
  double gain;
  double support;  // how many samples agree
  std::int64_t number;
  Pose<double> cam_from_world;
};

PYLOC_HD PYLOC_INLINE bool precedes(const MsacHypothesis& a, const MsacHypothesis& b) {
  return a.gain > b.gain || (a.gain == b.gain && a.number < b.number);
}

// The Capacity best hypotheses seen so far, best first.
template <int Capacity>
struct MsacPool {
  int count = 0;
  MsacHypothesis entry[Capacity];

  PYLOC_HD bool full() const { return count == Capacity; }
  // What a hypothesis must reach to enter: -infinity while there is room.
  PYLOC_HD double threshold() const { return full() ? entry[Capacity - 1].gain : -HUGE_VAL; }

  PYLOC_HD bool insert(const MsacHypothesis& h) {
    if (!isfinite_(h.gain)) return false;
    if (full() && !precedes(h, entry[Capacity - 1])) return false;
    int at = full() ? Capacity - 1 : count++;
    for (; at > 0 && precedes(h, entry[at - 1]); --at) entry[at] = entry[at - 1];
    entry[at] = h;
    return true;
  }
};

// The Capacity-th largest of n values; -infinity when there are fewer.
template <int Capacity>
PYLOC_HD inline float kth_largest(const float* values, std::int64_t n) {
  float best[Capacity];
  int count = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (count == Capacity && !(values[i] > best[Capacity - 1])) continue;
    int at = count < Capacity ? count++ : Capacity - 1;
    for (; at > 0 && values[i] > best[at - 1]; --at) best[at] = best[at - 1];
    best[at] = values[i];
  }
  return count == Capacity ? best[Capacity - 1] : -HUGE_VALF;
}

// order[0..n) becomes the indices with the largest keys first, equal keys by rising index. Keys are
// positive floats, whose bits sort like integers: a byte-wise radix sort. `scratch` holds n ints.
PYLOC_HD inline void rank_descending(const float* keys, int n, int* order, int* scratch) {
  for (int i = 0; i < n; ++i) order[i] = i;
  for (int shift = 0; shift < 32; shift += 8) {
    int start[257] = {0};
    for (int i = 0; i < n; ++i) {
      std::uint32_t b;
      memcpy(&b, keys + order[i], sizeof(b));
      ++start[256 - ((b >> shift) & 255u)];
    }
    // Digit 255 first: its bucket is counted in start[1].
    for (int d = 0; d < 256; ++d) start[d + 1] += start[d];
    for (int i = 0; i < n; ++i) {
      std::uint32_t b;
      memcpy(&b, keys + order[i], sizeof(b));
      scratch[start[255 - ((b >> shift) & 255u)]++] = order[i];
    }
    for (int i = 0; i < n; ++i) order[i] = scratch[i];
  }
}

PYLOC_NAMESPACE_END
