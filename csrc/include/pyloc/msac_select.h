// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// First phases of estimate_pose on a GPU: what each map can say, the order of the maps, and what the rounds
// need to know of a problem. See msac_problem.h.
#pragma once

#include "pyloc/msac_exact.h"

PYLOC_NAMESPACE_BEGIN

// consensus.h's map_evidence and the best cell, the first in storage order of equal ones.
struct EvidencePhase {
  static constexpr int kThreads = 256;
  static constexpr int kMapsPerBlock = 8;  // a warp each
  MsacInput in;
  MsacWorkspace ws;

  template <int Threads>
  struct Shared {
    float peak[Threads];
    int entry[Threads], high[Threads];
  };

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>& s, std::int64_t block) const {
    constexpr int size = Group::kSize < 32 ? Group::kSize : 32, teams = Group::kSize / size;
    const int team = g.rank() / size, lane = g.rank() % size;
    for (int i = 0; i < kMapsPerBlock; i += teams) {
      const std::int64_t n = block * kMapsPerBlock + i + team;
      const bool here = i + team < kMapsPerBlock && n < in.maps.count;
      const std::int64_t begin = here ? in.maps.row_ptr[n] : 0;
      const int count = here ? int(in.maps.row_ptr[n + 1] - begin) : 0;
      const float* gain = in.maps.gain + begin;
      float peak = 0.0f;
      int entry = -1;
      for (int e = lane; e < count; e += size)
        if (gain[e] > peak) peak = gain[e], entry = e;
      g.sync();
      s.peak[g.rank()] = peak;
      s.entry[g.rank()] = entry;
      g.sync();
      for (int t = team * size; t < (team + 1) * size; ++t) {
        if (s.entry[t] < 0) continue;
        const bool first = s.peak[t] == peak && (entry < 0 || s.entry[t] < entry);
        if (s.peak[t] > peak || first) peak = s.peak[t], entry = s.entry[t];
      }
      int high = 0;
      for (int e = lane; e < count; e += size) high += gain[e] >= kConsistentShare * peak ? 1 : 0;
      s.high[g.rank()] = high;
      g.sync();
      if (here && lane == 0) finish(s.high + team * size, size, n, peak, begin + entry, entry >= 0);
    }
  }

 private:
  PYLOC_HD void finish(const int* counts, int size, std::int64_t n, float peak, std::int64_t entry,
                       bool any) const {
    int high = 0;
    for (int t = 0; t < size; ++t) high += counts[t];
    const float flat = in.maps.flat_gain ? in.maps.flat_gain[n] : 0.0f;
    const double area = double(in.maps.window_w) * double(in.maps.window_h);
    ws.peak[n] = peak;
    ws.share[n] = float(double(high) / area);
    ws.key[n] = any && peak - flat > kUsableGain ? peak : -1.0f;
    ws.best[2 * n] = any ? in.maps.xy[2 * entry] : std::int16_t(-1);
    ws.best[2 * n + 1] = any ? in.maps.xy[2 * entry + 1] : std::int16_t(-1);
  }
};

// The usable maps of a problem by falling peak, equal peaks by rising index: a map's place is the number of
// those before it. One thread per map.
struct OrderPhase {
  static constexpr int kThreads = 128;
  MsacInput in;
  MsacWorkspace ws;

  template <int Threads>
  struct Shared {};

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>&, std::int64_t block) const {
    for (int t = g.rank(); t < kThreads; t += Group::kSize) {
      const std::int64_t n = block * kThreads + t;
      if (n < in.maps.count && ws.key[n] > 0.0f) place(n);
    }
  }

 private:
  PYLOC_HD void place(std::int64_t n) const {
    const std::int64_t b = problem_of(in, n);
    if (b < 0) return;
    const MapRange maps = maps_of(in, b);
    const float key = ws.key[n];
    const float* keys = ws.key + maps.begin;
    const int own = int(n - maps.begin);
    int before = 0;
    for (int i = 0; i < maps.count; ++i) before += keys[i] > key || (keys[i] == key && i < own) ? 1 : 0;
    ws.order[maps.begin + before] = own;
  }
};

// One block per problem.
struct SetupPhase {
  static constexpr int kThreads = 256;
  MsacInput in;
  MsacWorkspace ws;

  template <int Threads>
  struct Shared {
    int number[Threads];
    ExactScratch<Threads> exact;
  };

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>& s, std::int64_t b) const {
    const MapRange maps = maps_of(in, b);
    double* sums = s.exact.gain;
    int usable = 0;
    double chance = 0.0;
    for (int i = g.rank(); i < maps.count; i += Group::kSize) {
      if (!(ws.key[maps.begin + i] > 0.0f)) continue;
      ++usable;
      chance += double(ws.share[maps.begin + i]);
    }
    usable = group_sum(g, s.number, usable);
    chance = group_sum(g, sums, chance);
    const double wanted = ::ceil(in.top_fraction * double(usable));
    const int sampled = int(min_(max_(wanted, double(kMsacMinSampled)), double(usable)));
    repair_order(g, maps, sampled);
    const auto point = [&](int k) { return point_of(in, maps.begin + ws.order[maps.begin + k]); };
    const WorldFrame frame = frame_of_points(g, sums, point, sampled);
    double peaks = 0.0;
    const Camera<double> cam = camera_of(in, b);
    for (int k = g.rank(); k < sampled; k += Group::kSize) peaks += store(maps.begin, k, frame, cam);
    peaks = group_sum(g, sums, peaks);
    MsacState& state = ws.state[b];
    if (g.rank() == 0) {
      state.frame = frame;
      state.chance = usable ? chance / double(usable) : 0.0;
      state.tolerance = scoring_tolerance(peaks, in.maps.map_w, in.maps.map_h);
      state.num_usable = usable;
      state.num_sampled = sampled;
      state.done = 0;
      state.wanted = in.iterations > 0 ? in.iterations : kMsacMinIterations;
      state.round_end = round_size(0, state.wanted);
      state.finished = usable < kMinUsable;
      state.pool.count = 0;
    }
    if (usable < kMinUsable) return;
    const auto initial = [&](int i) {
      MsacHypothesis h{0.0, 0.0, i - kMsacRoots * in.num_initial, {}};
      h.cam_from_world = load_pose<double>(in.initial + 12 * (b * in.num_initial + i));
      return h;
    };
    collect_exact(g, s.exact, in, ws, b, sampled, initial, int(in.num_initial), state.pool);
  }

 private:
  // Only a problem_ptr that does not rise leaves places without a map.
  template <class Group>
  PYLOC_HD void repair_order(const Group& g, const MapRange& maps, int sampled) const {
    for (int k = g.rank(); k < sampled; k += Group::kSize) {
      std::int32_t& i = ws.order[maps.begin + k];
      if (i < 0 || i >= maps.count) i = 0;
    }
    g.sync();
  }

  // The k-th most peaked map as the rounds read it; its peak.
  PYLOC_HD double store(std::int64_t begin, int k, const WorldFrame& frame, const Camera<double>& cam) const {
    const std::int64_t n = begin + ws.order[begin + k], at = begin + k;
    const Vec3<double> X = frame.apply(point_of(in, n));
    ws.point[3 * at] = float(X.x);
    ws.point[3 * at + 1] = float(X.y);
    ws.point[3 * at + 2] = float(X.z);
    const std::int16_t x = ws.best[2 * n], y = ws.best[2 * n + 1];
    ws.cell[2 * at] = x;
    ws.cell[2 * at + 1] = y;
    const Vec3<double> ray = unproject(cam, Vec2<double>{double(x), double(y)});
    ws.bearing[3 * at] = ray.x;
    ws.bearing[3 * at + 1] = ray.y;
    ws.bearing[3 * at + 2] = ray.z;
    return double(ws.peak[n]);
  }
};

PYLOC_NAMESPACE_END
