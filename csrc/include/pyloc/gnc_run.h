// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// A whole refinement over loss maps (pyloc/gnc.h) by one group of threads: passes, damping, schedule,
// covariance and verdict, without a word from outside. The CPU's own form with SIMD is
// csrc/cpu/refine_pose.cpp; both make the same decisions.
//
// Every map has one thread that owns it, and tiles own equally many. A pass has two halves, which keeps the
// registers of each few: sums over entries, for which a tile works through its threads' maps one after the
// other, all reading neighbouring entries of one map; then every thread projects its points again, with
// Jacobians, and adds up the maps. Entries are summed in float32, relative to the map's integer cell;
// projections, normal equations and energies are float64: decreases of 1e-5 in sums of thousands decide when
// to stop. One thread of each block decides, between two barriers.
#pragma once

#include "pyloc/gnc_batch.h"
#include "pyloc/pose_covariance.h"
#include "pyloc/thread_group.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kPassSums = 30;  // energy, decrease, increase, A (21), b (6)

enum GncTask : int { kGncEvaluate = 0, kGncTry = 1, kGncStop = 2 };

// What the threads of a part (a block) see of each other, in shared memory. All parts hold the same.
struct GncShared {
  GncView view;
  GncState state;
  int levels, task, current;  // current: which of the two arrays holds the energies at `pose`
  Pose<double> pose, trial;   // in the problem's frame
  double energy, A[21], b[6], predicted;
  double sigmas[kMaxSigmas];
  double C[36];
  double gain;
  Consensus found;
};

struct alignas(4) MapCell {
  std::int16_t x, y;
};

// Maps are handed out to all tiles before a tile gets its second, and one after the other to its threads.
// Within [0, size()): the place, relative to `base`, of the map that the thread at `tile_rank` of this tile
// owns.
template <class Group>
PYLOC_HD PYLOC_INLINE int owned_place(const Group& group, int tile_rank) {
  return tile_rank * (group.size() / Group::kTile) + group.rank() / Group::kTile;
}
// How many threads of a tile own a map when `left` maps are left.
template <class Group>
PYLOC_HD PYLOC_INLINE int owners_per_tile(const Group& group, std::int64_t left) {
  const std::int64_t tiles = group.size() / Group::kTile, owners = (left + tiles - 1) / tiles;
  return owners < Group::kTile ? int(owners) : Group::kTile;
}
// Calls use(n) for the maps that this thread owns.
template <class Group, class Use>
PYLOC_HD PYLOC_INLINE void for_owned(const Group& group, const GncView& view, const Use& use) {
  for (std::int64_t i = owned_place(group, group.tile_rank()); i < view.count; i += group.size())
    use(view.first + i);
}

// Sums over the entries of the tile's current map; `moments` may be null.
template <class Group>
PYLOC_HD inline MapSums<float> tile_sums(const Group& group, const LossMapsView& maps, const NearEntries& w,
                                         float exponent, MapMoments<float>* moments) {
  const MapCell* cells = reinterpret_cast<const MapCell*>(maps.xy) + w.begin;
  const float* gains = maps.gain + w.begin;
  MapSums<float> s{0.0f, 0.0f, 0.0f};
  for (std::int32_t i = group.tile_rank(); i < w.count; i += Group::kTile) {
    const MapCell cell = cells[i];
    const float rx = float(cell.x - w.x) - w.fx, ry = float(cell.y - w.y) - w.fy;
    const float e = add_entry(s, rx, ry, gains[i], exponent);
    if (moments) add_moments(*moments, rx, ry, e);
  }
  s = {group.tile_sum(s.mass), group.tile_sum(s.x), group.tile_sum(s.y)};
  if (moments)
    *moments = {group.tile_sum(moments->xx), group.tile_sum(moments->xy), group.tile_sum(moments->yy)};
  return s;
}

template <class Group>
PYLOC_HD inline NearEntries broadcast(const Group& group, const NearEntries& w, int source) {
  return {group.tile_broadcast(w.begin, source), group.tile_broadcast(w.count, source),
          group.tile_broadcast(w.x, source),     group.tile_broadcast(w.y, source),
          group.tile_broadcast(w.fx, source),    group.tile_broadcast(w.fy, source)};
}

PYLOC_HD inline Vec3<double> framed_point(const GncView& view, std::int64_t n) {
  const double* X = view.points + 3 * n;
  return Vec3<double>{X[0], X[1], X[2]} - view.origin;
}

// The entries near the projection of point n; none when that is nowhere near the map.
PYLOC_HD inline NearEntries look_around(const GncView& view, const Pose<double>& pose, std::int64_t n,
                                        double sigma) {
  const NearEntries none{0, 0, 0, 0, 0.0f, 0.0f};
  Vec2<double> p;
  if (!project(view.camera, transform(pose, framed_point(view, n)), p)) return none;
  const double reach = min_(kReachSigmas * sigma, kOutside);
  // NaN fails these comparisons.
  if (!(p.x >= -reach && p.x <= view.maps->map_w - 1 + reach)) return none;
  if (!(p.y >= -reach && p.y <= view.maps->map_h - 1 + reach)) return none;
  return near_entries(*view.maps, view.first_rows, n, p.x, p.y, sigma);
}

// The first half of a pass: sums over the entries of every map, with second moments where they are wanted.
template <bool kMoments, class Group>
PYLOC_HD inline void sum_entries(const Group& group, const GncView& view, const Pose<double>& pose,
                                 double sigma) {
  const float exponent = float(gnc_exponent(sigma));
  for (std::int64_t base = 0; base < view.count; base += group.size()) {
    const std::int64_t at = base + owned_place(group, group.tile_rank()), n = view.first + at;
    const bool real = at < view.count;
    NearEntries mine{0, 0, 0, 0, 0.0f, 0.0f};
    if (real) mine = look_around(view, pose, n, sigma);
    MapSums<float> sums{0.0f, 0.0f, 0.0f};
    MapMoments<float> moments{0.0f, 0.0f, 0.0f};
    const int owners = owners_per_tile(group, view.count - base);
    for (int source = 0; source < owners; ++source) {
      MapMoments<float> m{0.0f, 0.0f, 0.0f};
      const NearEntries w = broadcast(group, mine, source);
      const MapSums<float> s = tile_sums(group, *view.maps, w, exponent, kMoments ? &m : nullptr);
      if (group.tile_rank() == source) sums = s, moments = m;
    }
    if (!real) continue;
    view.sums[n] = sums;
    if (kMoments) view.moments[n] = moments;
  }
}

// Pose Jacobian (2 x 6) of a point that has been seen near its map.
PYLOC_HD inline void point_jacobian(const GncView& view, const Pose<double>& pose, std::int64_t n,
                                    double J[12]) {
  const Vec3<double> RX = pose.R * framed_point(view, n);
  Vec2<double> p;
  double J_point[6] = {};
  project_jacobian(view.camera, RX + pose.t, p, J_point);
  pose_jacobian(J_point, RX, J);
}

// The second half: energy, normal equations and, for a trial, the sums of the maps' decreases and increases.
template <class Group>
PYLOC_HD inline const double* add_up(const Group& group, const GncView& view, const Pose<double>& pose,
                                     double sigma, const double* before, double* energies) {
  double total[kPassSums] = {};
  const double density = gnc_density(sigma), weight = density / (sigma * sigma);
  for_owned(group, view, [&](std::int64_t n) {
    const MapSums<float> s = view.sums[n];
    const double e = -density * double(s.mass), w = weight * double(s.mass);
    energies[n] = e;
    total[0] += e;
    if (before) {
      const double fall = before[n] - e;
      total[1] += max_(fall, 0.0);
      total[2] += max_(-fall, 0.0);
    }
    if (s.mass == 0.0f) return;  // no entry near: it may not even project
    double J[12];
    point_jacobian(view, pose, n, J);
    add_normal(total + 3, J, w, 0.0, w);
    const double wx = weight * double(s.x), wy = weight * double(s.y);
    for (int k = 0; k < 6; ++k) total[24 + k] += J[k] * wx + J[6 + k] * wy;
  });
  return group.sum(total);
}

// Index of rows, peak gain and share of high entries of the problem's maps: what the passes need beside the
// maps themselves.
template <class Group>
PYLOC_HD PYLOC_COLD void prepare_maps(const Group& group, const GncView& view) {
  const LossMapsView& maps = *view.maps;
  const double area = double(maps.window_w) * double(maps.window_h);
  const int rank = group.tile_rank();
  for (std::int64_t base = 0; base < view.count; base += group.size()) {
    const int owners = owners_per_tile(group, view.count - base);
    for (int source = 0; source < owners; ++source) {
      const std::int64_t at = base + owned_place(group, source), n = view.first + at;
      const bool real = at < view.count;
      const std::int64_t begin = real ? maps.row_ptr[n] : 0, end = real ? maps.row_ptr[n + 1] : 0;
      std::int16_t* rows = real ? view.first_rows + first_group(maps, n) * kBlocksPerGroup : nullptr;
      const std::int64_t blocks = (end - begin + kEntriesPerBlock - 1) / kEntriesPerBlock;
      const std::int64_t padded = (blocks + kBlocksPerGroup - 1) / kBlocksPerGroup * kBlocksPerGroup;
      for (std::int64_t k = rank; k < padded; k += Group::kTile)
        rows[k] = k < blocks ? maps.xy[2 * (begin + k * kEntriesPerBlock) + 1] : kNoRow;
      float peak = 0.0f;
      for (std::int64_t i = begin + rank; i < end; i += Group::kTile) peak = max_(maps.gain[i], peak);
      peak = group.tile_max(peak);
      std::int32_t high = 0;
      for (std::int64_t i = begin + rank; i < end; i += Group::kTile)
        high += maps.gain[i] >= kConsistentShare * peak ? 1 : 0;
      high = group.tile_sum(high);
      if (real && rank == source) {
        view.peak[n] = peak;
        view.share[n] = area > 0.0 ? float(double(high) / area) : 1.0f;
      }
    }
  }
}

PYLOC_HD inline bool is_usable(const GncView& view, std::int64_t n) {
  const float* flat = view.maps->flat_gain;
  return view.peak[n] - (flat ? flat[n] : 0.0f) > kUsableGain;
}

// ---------------------------------------------------------------------- control, by one thread

// The next trial from the normal equations at the pose; where none can be had, damping or the next sigma.
PYLOC_HD inline void plan_step(GncShared& s, const GncOptions& options) {
  if (!s.state.done && s.energy == 0.0) {
    s.state.reason = kGncNoSupport;
    s.state.done = 1;
  }
  while (!s.state.done) {
    double d[6];
    if (damped_step(s.A, s.b, s.state.lambda, false, d, &s.predicted)) {
      s.trial = left_update(s.pose, d);
      s.task = kGncTry;
      return;
    }
    ++s.state.iterations;
    const GncAction action = gnc_rejected(s.state, options, s.levels, HUGE_VAL);
    if (s.state.done) break;
    if (s.state.iterations >= options.max_iterations) {
      s.state.done = 1;
      s.state.reason = kGncMaxIterations;
      break;
    }
    if (action == kGncSkip) {
      s.task = kGncEvaluate;
      return;
    }
  }
  s.task = kGncStop;
}

PYLOC_HD inline void take_sums(GncShared& s, const double* sums) {
  s.energy = sums[0];
  for (int k = 0; k < 21; ++k) s.A[k] = sums[3 + k];
  for (int k = 0; k < 6; ++k) s.b[k] = sums[24 + k];
}

PYLOC_HD PYLOC_COLD void after_pass(GncShared& s, const GncOptions& options, const double* sums) {
  if (s.task == kGncTry) {
    const GncAction action =
        gnc_after_trial(s.state, options, s.levels, s.energy, sums[0], sums[1], sums[2], s.predicted);
    if (action == kGncAccept || action == kGncAdvance) {
      s.pose = s.trial;
      take_sums(s, sums);
      s.current = 1 - s.current;
    }
    if (!s.state.done && (action == kGncAdvance || action == kGncSkip)) {
      s.task = kGncEvaluate;  // energies of two sigmas cannot be compared
      return;
    }
  } else {
    take_sums(s, sums);
  }
  plan_step(s, options);
}

template <class Group>
PYLOC_HD inline void optimise(const Group& group, GncShared& s, const GncOptions& options) {
  if (group.leads()) {
    s.levels = gnc_schedule(options.sigma_max, options.sigma_min, false, s.sigmas);
    s.state = gnc_begin();
    s.task = kGncEvaluate;
    s.current = 0;
  }
  group.sync();
  while (s.task != kGncStop) {
    const bool trial = s.task == kGncTry;
    const double sigma = s.sigmas[s.state.level];
    const Pose<double>& pose = trial ? s.trial : s.pose;
    sum_entries<false>(group, s.view, pose, sigma);
    const double* sums = add_up(group, s.view, pose, sigma, trial ? s.view.energies[s.current] : nullptr,
                                s.view.energies[trial ? 1 - s.current : s.current]);
    if (group.leads()) after_pass(s, options, sums);
    group.sync();
  }
}

PYLOC_NAMESPACE_END
