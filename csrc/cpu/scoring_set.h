// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The maps that a consensus loop scores on, prepared once per call, and the loop over them that gives
// up hypotheses which can no longer win.
#pragma once

#include "cpu/map_scoring.h"
#include "pyloc/consensus.h"
#include "pyloc/msac.h"

PYLOC_NAMESPACE_BEGIN

// Eq. 4.6 in float64, what decides between hypotheses: of every pose of a list the sum over maps of the
// bilinear gain, and how many maps are consistent with it. Map by map, so that a map's cells are read while
// they are in the cache; every sum runs over the maps in their order, whatever the list.
class ExactScores {
 public:
  ExactScores(const LossMapsView& maps, const double* points, const Camera<double>& cam, const float* peaks)
      : maps_(maps), points_(points), cam_(cam), peaks_(peaks) {}

  PYLOC_INLINE double gain(const Pose<double>& cam_from_world, std::int64_t n) const {
    const Vec3<double> X{points_[3 * n], points_[3 * n + 1], points_[3 * n + 2]};
    Vec2<double> p;
    if (!project(cam_, transform(cam_from_world, X), p)) return 0.0;
    return bilinear_gain<double>(maps_, n, p.x, p.y);
  }

  // gain and support of hypotheses whose poses are set.
  void run(const int* order, int count, MsacHypothesis* hypotheses, int num_hypotheses) const {
    for (int i = 0; i < num_hypotheses; ++i) hypotheses[i].gain = hypotheses[i].support = 0.0;
    for (int k = 0; k < count; ++k)
      for (int i = 0; i < num_hypotheses; ++i) {
        const double g = gain(hypotheses[i].cam_from_world, order[k]);
        hypotheses[i].gain += g;
        hypotheses[i].support += is_consistent(g, peaks_[order[k]]);
      }
  }

 private:
  const LossMapsView& maps_;
  const double* points_;
  Camera<double> cam_;
  const float* peaks_;
};

// Centre and half extent of the listed points.
inline WorldFrame world_frame(const double* points, const int* order, std::int64_t count) {
  WorldFrame frame;
  for (std::int64_t k = 0; k < count; ++k) {
    const double* X = points + 3 * std::int64_t(order[k]);
    frame.centre = frame.centre + Vec3<double>{X[0], X[1], X[2]} * (1.0 / double(count));
  }
  double extent = 0.0;
  for (std::int64_t k = 0; k < count; ++k) {
    const double* X = points + 3 * std::int64_t(order[k]);
    const Vec3<double> d = Vec3<double>{X[0], X[1], X[2]} - frame.centre;
    extent = max_(extent, max_(abs_(d.x), max_(abs_(d.y), abs_(d.z))));
  }
  frame.scale = extent > 1e-300 && isfinite_(extent) ? 1.0 / extent : 1.0;
  return frame;
}

class ScoringSet {
 public:
  // Beyond this many cells a window is not made dense: every pose is scored in float64 on the sparse map.
  static constexpr std::size_t kLargestDense = std::size_t(1) << 24;

  // `order` lists the maps, largest peak first; none may be empty.
  ScoringSet(const LossMapsView& maps, const double* points, const int* order, const float* peaks, int count)
      : count_(count),
        points_(3 * std::size_t(count)),
        scale_(count),
        corner_(2 * std::size_t(count)),
        remaining_(std::size_t(count) + 1),
        first_(std::size_t(count) + 1),
        offset_(entries(maps, order, count)),
        level_(entries(maps, order, count)),
        w_(maps.window_w),
        h_(maps.window_h) {
    if (!ok()) return;
    frame_ = world_frame(points, order, count);
    first_[0] = 0;
    for (int k = 0; k < count; ++k) prepare(maps, points, order[k], peaks[order[k]], k);
    remaining_[count] = 0.0;
    for (int k = count; k-- > 0;) remaining_[k] = remaining_[k + 1] + double(peaks[order[k]]);
  }

  bool ok() const { return points_ && scale_ && corner_ && remaining_ && first_ && offset_ && level_; }
  bool dense() const { return DenseMap::cell_count(w_, h_) <= kLargestDense; }
  int count() const { return count_; }
  const WorldFrame& frame() const { return frame_; }
  std::size_t cells() const { return DenseMap::cell_count(w_, h_); }

  // How far the float32 sum may be from the float64 one.
  double tolerance(const LossMapsView& maps) const {
    return scoring_tolerance(remaining_[0], maps.map_w, maps.map_h);
  }

  // Sums the gains of all poses of the block; those that cannot reach `threshold` any more are left out,
  // which the sum of the unvisited maps' peaks proves. block.id tells who is left.
  void score(PoseBlock& block, const Camera<float>& cam, std::int32_t* cells, double threshold) const {
    DenseMap map;
    map.cells = cells;
    map.stride = w_ + 2;
    map.w = w_;
    map.h = h_;
    for (int k = 0; k < count_; ++k) {
      if (k % kCheckEvery == 0) keep(block, threshold - remaining_[k]);
      if (block.count == 0) return;
      const std::int64_t begin = first_[k], n = first_[k + 1] - begin;
      map.x0 = corner_[2 * k];
      map.y0 = corner_[2 * k + 1];
      map.fill(offset_.data() + begin, level_.data() + begin, n);
      const float* X = points_.data() + 3 * k;
      if (cam.kind == kPinhole) {
        score_map<kPinhole>(map, X, scale_[k], cam, block);
      } else if (cam.kind == kOpenCV) {
        score_map<kOpenCV>(map, X, scale_[k], cam, block);
      } else {
        score_map<kFisheye>(map, X, scale_[k], cam, block);
      }
      map.clear(offset_.data() + begin, n);
    }
  }

  // Gains of `count` poses, by one thread; a pose that was given up gets -infinity.
  bool score_poses(const Camera<float>& cam, const Pose<double>* poses, int count, double threshold,
                   float* gain) const {
    const int stride = (count + PackF::kWidth - 1) / PackF::kWidth * PackF::kWidth;
    Scratch<float> values(13 * std::size_t(stride));
    Scratch<int> ids{std::size_t(stride)};
    Scratch<std::int32_t> map(cells());
    if (!values || !ids || !map) return false;
    memset(map.data(), 0, cells() * sizeof(std::int32_t));
    PoseBlock block;
    block.count = count;
    block.stride = stride;
    block.rows = values.data();
    block.gain = values.data() + 12 * stride;
    block.id = ids.data();
    for (int i = 0; i < count; ++i) {
      block.set(i, poses[i], frame_, cam);
      gain[i] = -HUGE_VALF;
    }
    block.pad();
    score(block, cam, map.data(), threshold);
    for (int i = 0; i < block.count; ++i) gain[block.id[i]] = block.gain[i];
    return true;
  }

 private:
  static constexpr int kCheckEvery = 16;

  static std::size_t entries(const LossMapsView& maps, const int* order, int count) {
    std::size_t sum = 0;
    for (int k = 0; k < count; ++k) sum += std::size_t(maps.row_ptr[order[k] + 1] - maps.row_ptr[order[k]]);
    return sum;
  }

  void prepare(const LossMapsView& maps, const double* points, int n, float peak, int k) {
    const double* X = points + 3 * std::int64_t(n);
    const Vec3<double> p = frame_.apply({X[0], X[1], X[2]});
    points_[3 * k] = float(p.x);
    points_[3 * k + 1] = float(p.y);
    points_[3 * k + 2] = float(p.z);
    scale_[k] = peak / kGainLevels;
    const int x0 = maps.origins ? maps.origins[2 * std::int64_t(n)] : 0;
    const int y0 = maps.origins ? maps.origins[2 * std::int64_t(n) + 1] : 0;
    corner_[2 * k] = float(x0);
    corner_[2 * k + 1] = float(y0);
    const std::int64_t begin = maps.row_ptr[n], count = maps.row_ptr[n + 1] - begin;
    const float to_level = kGainLevels / peak;
    std::int32_t* offset = offset_.data() + first_[k];
    std::uint16_t* level = level_.data() + first_[k];
    if (dense()) {
      for (std::int64_t i = 0; i < count; ++i) {
        const int x = maps.xy[2 * (begin + i)] - x0, y = maps.xy[2 * (begin + i) + 1] - y0;
        offset[i] = (y + 1) * (w_ + 2) + x + 1;
        level[i] = std::uint16_t(std::int32_t(min_(maps.gain[begin + i] * to_level, kGainLevels) + 0.5f));
      }
    }
    first_[k + 1] = first_[k] + count;
  }

  static void keep(PoseBlock& block, double wanted) {
    if (!(wanted > 0.0)) return;
    const float bound = float(wanted);
    int kept = 0;
    for (int i = 0; i < block.count; ++i) {
      if (!(block.gain[i] >= bound)) continue;
      if (kept != i) block.move(i, kept);
      ++kept;
    }
    block.count = kept;
    block.pad();
  }

  int count_;
  WorldFrame frame_;
  Scratch<float> points_, scale_, corner_;  // (count, 3), (count), (count, 2)
  Scratch<double> remaining_;               // (count + 1): sum of the peaks from map k on
  Scratch<std::int64_t> first_;             // (count + 1)
  Scratch<std::int32_t> offset_;            // (nnz)
  Scratch<std::uint16_t> level_;            // (nnz)
  int w_, h_;
};

PYLOC_NAMESPACE_END
