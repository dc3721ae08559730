// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Float32 scores of hypotheses on loss maps (Eq. 4.6), what CPU and GPU share: the frame in which float32
// is enough, a pose as the scoring loops read it, and the bilinear read of one map made dense.
//
// Contract: a sum of float32 gains over maps whose peaks sum to P is within scoring_tolerance(P) of the
// float64 sum. It ranks; float64 decides.
#pragma once

#include "pyloc/camera.h"
#include "pyloc/loss_map.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

constexpr float kGainLevels = 65535.0f;  // of the CPU's dense maps

// Poses are ranked in float32, so the world is centred and scaled to |X| <= 1 in float64 first.
struct WorldFrame {
  Vec3<double> centre{0, 0, 0};
  double scale = 1.0;

  PYLOC_HD PYLOC_INLINE Vec3<double> apply(const Vec3<double>& X) const { return (X - centre) * scale; }
  // R (X / scale + centre) + t, times scale: depth keeps its sign, the projection does not change.
  PYLOC_HD PYLOC_INLINE Vec3<double> translation(const Pose<double>& cam_from_world) const {
    return transform(cam_from_world, centre) * scale;
  }
};

// Half a level per tap, and the error of a float32 projection (a few units in the last place of the map's
// extent) times the steepest slope.
PYLOC_HD PYLOC_INLINE double scoring_tolerance(double sum_of_peaks, int map_w, int map_h) {
  return sum_of_peaks * (1.0 / kGainLevels + 2e-6 * (double(map_w) + double(map_h))) + 1e-5;
}

// [R | t'] of a pose in the world frame, row by row. Without distortion the focal lengths are part of the
// first two rows. All zeros is no pose: its depth is 0, which counts as behind the camera.
struct ScoringPose {
  float v[12];
};

PYLOC_HD PYLOC_INLINE ScoringPose scoring_pose(const Pose<double>& cam_from_world, const WorldFrame& frame,
                                               const Camera<double>& cam) {
  const Vec3<double> t = frame.translation(cam_from_world);
  const bool folded = cam.kind == kPinhole;
  const double fx = folded ? cam.fx : 1.0, fy = folded ? cam.fy : 1.0;
  const auto& m = cam_from_world.R.m;
  return {{float(fx * m[0]), float(fx * m[1]), float(fx * m[2]), float(fx * t.x), float(fy * m[3]),
           float(fy * m[4]), float(fy * m[5]), float(fy * t.y), float(m[6]), float(m[7]), float(m[8]),
           float(t.z)}};
}

// 1 / a to 2 units in the last place.
PYLOC_HD PYLOC_INLINE float scoring_reciprocal(float a) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, a);
#else
  return 1.0f / a;
#endif
}

// Map coordinates of a point of the frame; false for depth <= 0. A pinhole camera's result may be infinite
// or NaN, which both readers below take for a place outside the map.
template <int Kind>
PYLOC_HD PYLOC_INLINE bool project_scoring(const Camera<float>& cam, const ScoringPose& pose,
                                           const Vec3<float>& X, Vec2<float>& xy) {
  const float* v = pose.v;
  const float z = v[8] * X.x + (v[9] * X.y + (v[10] * X.z + v[11]));
  const float x = v[0] * X.x + (v[1] * X.y + (v[2] * X.z + v[3]));
  const float y = v[4] * X.x + (v[5] * X.y + (v[6] * X.z + v[7]));
  if (Kind != kPinhole) return project(cam, Vec3<float>{x, y, z}, xy);
  const float iz = scoring_reciprocal(z);
  xy = {x * iz + cam.cx, y * iz + cam.cy};
  return z > 0.0f;
}

// One map as an array of gains with a border of zeros, which makes clamping enough outside the map: the cell
// (x, y) of a window w x h is cells[(y + 1) (w + 2) + x + 1].
struct DenseGains {
  float* cells;
  int w, h;

  PYLOC_HD static PYLOC_INLINE std::int64_t count(int w, int h) {
    return std::int64_t(w + 2) * std::int64_t(h + 3) + 2;  // reads at the far border go one row and cell on
  }
  PYLOC_HD PYLOC_INLINE int index(int x, int y) const { return (y + 1) * (w + 2) + x + 1; }

  // At a point relative to the window's first cell.
  PYLOC_HD PYLOC_INLINE float read(float x, float y) const {
    // max_ comes first and turns NaN into 0, the zero border.
    x = min_(max_(x + 1.0f, 0.0f), float(w + 1));
    y = min_(max_(y + 1.0f, 0.0f), float(h + 1));
    const int ix = int(x), iy = int(y), stride = w + 2;
    const float ax = x - float(ix), ay = y - float(iy);
    const float* top = cells + iy * stride + ix;
    const float upper = top[0] + ax * (top[1] - top[0]);
    const float lower = top[stride] + ax * (top[stride + 1] - top[stride]);
    return upper + ay * (lower - upper);
  }
};

PYLOC_NAMESPACE_END
