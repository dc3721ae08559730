// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Float32 gains (Eq. 4.6) of many hypotheses on many loss maps by a block, hypotheses in registers, one map
// after the other in shared memory: a map's live cells are scattered into zeros, all hypotheses read them,
// and the same cells are cleared. Where a window does not fit, its sorted entries are searched instead.
// Used by estimate_pose (msac_problem.h) and score_poses.
#pragma once

#include "pyloc/block_group.h"
#include "pyloc/pose_scoring.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kHypothesesPerBlock = 1024;
// Of dense maps up to this size a multiprocessor holds several, each with a block of few threads; beyond it
// one, which then needs many threads to hide its waits.
constexpr std::int64_t kFewCells = 18 * 1024;
constexpr int kFewThreads = 256, kManyThreads = 1024;

// A map to score on: its number and its point in the frame of the hypotheses.
struct ScoredMap {
  std::int64_t n;
  Vec3<float> point;
};

// Gains of one map.
template <int Kind, int Each, class Group, class Gain>
PYLOC_HD PYLOC_INLINE void add_gains(const Camera<float>& cam, const ScoringPose* poses, int count,
                                     const Vec3<float>& X, const Gain& gain, float* sums) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int j = 0; j < Each; ++j) {
    if (j * Group::kSize >= count) break;
    Vec2<float> p;
    const bool ahead = project_scoring<Kind>(cam, poses[j], X, p);
    const float value = gain(p);
    sums[j] += ahead ? value : 0.0f;
  }
}

template <int Kind, class Group>
struct TileScorer {
  static constexpr int kEach = kHypothesesPerBlock / Group::kSize;
  const LossMapsView& maps;
  const Camera<float>& cam;
  float* cells;  // shared memory for one dense map, or null

  PYLOC_HD PYLOC_INLINE DenseGains dense() const { return {cells, maps.window_w, maps.window_h}; }
  PYLOC_HD PYLOC_INLINE int corner_x(std::int64_t n) const { return maps.origins ? maps.origins[2 * n] : 0; }
  PYLOC_HD PYLOC_INLINE int corner_y(std::int64_t n) const {
    return maps.origins ? maps.origins[2 * n + 1] : 0;
  }
  // The cell of an entry in the dense map; -1 outside the window, which a map of this package never is.
  PYLOC_HD PYLOC_INLINE int cell_of(std::int64_t entry, int x0, int y0) const {
    const int x = maps.xy[2 * entry] - x0, y = maps.xy[2 * entry + 1] - y0;
    return x >= 0 && x < maps.window_w && y >= 0 && y < maps.window_h ? dense().index(x, y) : -1;
  }

  PYLOC_HD void clear_all(const Group& g) const {
    const int size = int(DenseGains::count(maps.window_w, maps.window_h));
    for (int i = g.rank(); i < size; i += Group::kSize) cells[i] = 0.0f;
  }

  PYLOC_HD void score_dense(const Group& g, const ScoredMap& map, const ScoringPose* poses, int count,
                            float* sums) const {
    const int x0 = corner_x(map.n), y0 = corner_y(map.n);
    const std::int64_t first = maps.row_ptr[map.n] + g.rank(), end = maps.row_ptr[map.n + 1];
    g.sync();
    int own = -1;  // the first cell that this thread sets; most maps have no more than one per thread
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
    for (std::int64_t e = first; e < end; e += Group::kSize) {
      const int at = cell_of(e, x0, y0);
      if (at >= 0) cells[at] = maps.gain[e];
      if (e == first) own = at;
    }
    g.sync();
    const DenseGains gains = dense();
    const float dx = float(x0), dy = float(y0);
    add_gains<Kind, kEach, Group>(
        cam, poses, count, map.point, [&](const Vec2<float>& p) { return gains.read(p.x - dx, p.y - dy); },
        sums);
    g.sync();
    if (own >= 0) cells[own] = 0.0f;
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
    for (std::int64_t e = first + Group::kSize; e < end; e += Group::kSize) {
      const int at = cell_of(e, x0, y0);
      if (at >= 0) cells[at] = 0.0f;
    }
  }

  PYLOC_HD void score_sparse(const ScoredMap& map, const ScoringPose* poses, int count, float* sums) const {
    add_gains<Kind, kEach, Group>(
        cam, poses, count, map.point,
        [&](const Vec2<float>& p) { return bilinear_gain<float>(maps, map.n, p.x, p.y); }, sums);
  }

  // Hypotheses pose(0) .. pose(count - 1), count <= kHypothesesPerBlock, on maps map(first) .. map(end - 1).
  template <class PoseOf, class MapOf>
  PYLOC_HD void run(const Group& g, const PoseOf& pose, int count, const MapOf& map, int first, int end,
                    float* gain) const {
    ScoringPose poses[kEach];
    float sums[kEach];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int j = 0; j < kEach; ++j) {
      sums[j] = 0.0f;
      const int i = g.rank() + j * Group::kSize;
      poses[j] = i < count ? pose(i) : ScoringPose{};
    }
    if (cells) clear_all(g);
    for (int k = first; k < end; ++k) {
      if (cells) {
        score_dense(g, map(k), poses, count, sums);
      } else {
        score_sparse(map(k), poses, count, sums);
      }
    }
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int j = 0; j < kEach; ++j) {
      const int i = g.rank() + j * Group::kSize;
      if (i < count) gain[i] = sums[j];
    }
  }
};

// Gains (count) of a tile of hypotheses, summed over maps first .. end - 1 in their order.
template <class Group, class PoseOf, class MapOf>
PYLOC_HD inline void score_tile(const Group& g, const LossMapsView& maps, const Camera<float>& cam,
                                float* cells, const PoseOf& pose, int count, const MapOf& map, int first,
                                int end, float* gain) {
  if (cam.kind == kPinhole) {
    TileScorer<kPinhole, Group>{maps, cam, cells}.run(g, pose, count, map, first, end, gain);
  } else {  // the other kinds branch inside project()
    TileScorer<kOpenCV, Group>{maps, cam, cells}.run(g, pose, count, map, first, end, gain);
  }
}

PYLOC_NAMESPACE_END
