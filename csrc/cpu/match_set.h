// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// 2D-3D matches prepared for consensus: MSAC's truncated squared reprojection error (Torr and Zisserman
// 2000) in float32 to rank hypotheses and in float64 to decide, and its normal equations.
#pragma once

#include "cpu/map_scoring.h"
#include "cpu/pose_terms.h"

PYLOC_NAMESPACE_BEGIN

// 1 / a to within 2 units in the last place: an estimate and a Newton step where there is one.
PYLOC_INLINE PackF quick_inverse(PackF a) {
#if defined(__AVX512F__)
  const PackF r((PackF::Raw)_mm512_rcp14_ps((__m512)a.raw));
  return r * (PackF(2.0f) - a * r);
#else
  return PackF(1.0f) / a;
#endif
}

PYLOC_INLINE PackD quick_inverse(PackD a) {
#if defined(__AVX512F__)
  PackD r((PackD::Raw)_mm512_rcp14_pd((__m512d)a.raw));
  r = fma_(r, PackD(1.0) - a * r, r);
  return fma_(r, PackD(1.0) - a * r, r);
#else
  return PackD(1.0) / a;
#endif
}

// Poses act on centred points: X_cam = R (X - center) + t.
class MatchSet {
 public:
  // `picked` lists the matches to use.
  MatchSet(const double* points2d, const double* points3d, const double* weights, const std::int64_t* picked,
           std::int64_t count, const Camera<double>& camera, double max_error)
      : camera_(camera),
        limit2_(max_error * max_error),
        count_(count),
        padded_((count + PackF::kWidth - 1) / PackF::kWidth * PackF::kWidth),
        rows_(kRows * std::size_t(padded_)),
        single_(kRows * std::size_t(padded_)) {
    if (!ok()) return;
    camera_.cx = camera_.cy = 0.0;  // the principal point is taken from the measurements: float32 keeps more
    float_camera_ = convert<float>(camera_);
    find_frame(points3d, picked);
    for (std::int64_t i = 0; i < padded_; ++i) fill(i, points2d, points3d, weights, picked, camera);
    const double size = max_error + extent_;
    tolerance_ = 4e-6 * (max_error * size + 1e-6 * size * size) * weight_ + 1e-6 * weight_ * limit2_;
  }

  bool ok() const { return rows_ && single_; }
  std::int64_t count() const { return count_; }
  const Vec3<double>& center() const { return center_; }
  const double* row(int r) const { return rows_.data() + r * padded_; }
  double total_weight() const { return weight_; }
  double limit2() const { return limit2_; }
  double tolerance() const { return tolerance_; }  // of a float32 gain

  enum Row { kX, kY, kZ, kU, kV, kWeight, kRows };

  // Matches with r < T.
  struct Inliers {
    std::int64_t count;
    double weight;
  };

  // sum w (T^2 - min(r^2, T^2)) in float64. `share`, when given, receives 1 - min(r^2, T^2) / T^2 of every
  // match.
  double exact_gain(const Pose<double>& pose, Inliers* inliers = nullptr, double* share = nullptr) const {
    if (camera_.kind == kPinhole && !share && !inliers) return exact_gain_pinhole(pose);
    PackD sum(0.0), near(0.0), weight(0.0);
    const PackD zero(0.0), limit(limit2_);
    for (std::int64_t i = 0; i < padded_; i += PackD::kWidth) {
      ProjectedPack p;
      project_pack(camera_, in_camera(rotate_pack(pose.R, point(i)), pose.t), p);
      const PackD dx = load(kU, i) - p.xy.x, dy = load(kV, i) - p.xy.y, r2 = dx * dx + dy * dy;
      const PackMask<double> inside = mask_and(p.front, r2 < limit);
      const PackD kept = select(inside, limit - r2, zero);
      sum += load(kWeight, i) * kept;
      const PackD w = select(inside, load(kWeight, i), zero);
      near += select(w > 0.0, PackD(1.0), zero);
      weight += w;
      for (int k = 0; share && k < PackD::kWidth && i + k < count_; ++k) share[i + k] = kept[k] / limit2_;
    }
    if (inliers) *inliers = {std::int64_t(reduce_add(near)), reduce_add(weight)};
    return reduce_add(sum);
  }

  // For levenberg.h: cost sum w min(r^2, T^2) and the normal equations of the matches inside.
  bool linearize(const Pose<double>& pose, bool, NormalEquations<double>& out) const {
    NormalPack sums;
    const PackD zero(0.0), limit(limit2_);
    for (std::int64_t i = 0; i < padded_; i += PackD::kWidth) {
      const Vec3<PackD> RX = rotate_pack(pose.R, point(i));
      ProjectedPack p;
      project_pack(camera_, in_camera(RX, pose.t), p);
      const PackD dx = load(kU, i) - p.xy.x, dy = load(kV, i) - p.xy.y, r2 = dx * dx + dy * dy;
      const PackMask<double> inside = mask_and(p.front, r2 < limit);
      const PackD weight = load(kWeight, i), w = select(inside, weight, zero);
      // Zero times an infinite Jacobian would be NaN.
      for (PackD& j : p.J) j = select(inside, j, zero);
      const PackD x = select(inside, dx, zero), y = select(inside, dy, zero);
      sums.add({weight * select(inside, r2, limit), w * x, w * y, w, zero, w}, p.J, RX);
    }
    sums.store(out);
    return true;
  }

  // Float32 gain of one pose; -infinity once it can no longer reach `threshold`.
  float quick_gain(const Pose<double>& pose, double threshold) const {
    switch (camera_.kind) {
      case kPinhole:
        return quick_gain_of<kPinhole>(pose, threshold);
      case kOpenCV:
        return quick_gain_of<kOpenCV>(pose, threshold);
      default:
        return quick_gain_of<kFisheye>(pose, threshold);
    }
  }

 private:
  static constexpr std::int64_t kCheckEvery = 256;  // matches between two looks at the bound

  PYLOC_INLINE PackD load(int r, std::int64_t i) const { return PackD::load(rows_.data() + r * padded_ + i); }
  PYLOC_INLINE PackF loadf(int r, std::int64_t i) const {
    return PackF::load(single_.data() + r * padded_ + i);
  }
  PYLOC_INLINE Vec3<PackD> point(std::int64_t i) const { return {load(kX, i), load(kY, i), load(kZ, i)}; }
  static PYLOC_INLINE Vec3<PackD> in_camera(const Vec3<PackD>& RX, const Vec3<double>& t) {
    return {RX.x + PackD(t.x), RX.y + PackD(t.y), RX.z + PackD(t.z)};
  }

  void find_frame(const double* points3d, const std::int64_t* picked) {
    const double share = 1.0 / double(count_ > 0 ? count_ : 1);
    for (std::int64_t i = 0; i < count_; ++i) {
      const double* X = points3d + 3 * picked[i];
      center_ = center_ + Vec3<double>{X[0], X[1], X[2]} * share;
    }
    double extent = 0.0;
    for (std::int64_t i = 0; i < count_; ++i) {
      const double* X = points3d + 3 * picked[i];
      const Vec3<double> d = Vec3<double>{X[0], X[1], X[2]} - center_;
      extent = max_(extent, max_(abs_(d.x), max_(abs_(d.y), abs_(d.z))));
    }
    scale_ = extent > 1e-300 && isfinite_(extent) ? 1.0 / extent : 1.0;
  }

  // Padding repeats the first match with weight zero.
  void fill(std::int64_t i, const double* points2d, const double* points3d, const double* weights,
            const std::int64_t* picked, const Camera<double>& camera) {
    const std::int64_t n = picked[i < count_ ? i : 0];
    const double* X = points3d + 3 * n;
    const double values[kRows] = {X[0] - center_.x,
                                  X[1] - center_.y,
                                  X[2] - center_.z,
                                  points2d[2 * n] - camera.cx,
                                  points2d[2 * n + 1] - camera.cy,
                                  i >= count_ ? 0.0
                                  : weights   ? weights[n]
                                              : 1.0};
    for (int r = 0; r < kRows; ++r) {
      rows_[r * padded_ + i] = values[r];
      single_[r * padded_ + i] = float(r <= kZ ? values[r] * scale_ : values[r]);
    }
    weight_ += values[kWeight];
    extent_ = max_(extent_, max_(abs_(values[kU]), abs_(values[kV])));
  }

  // The sum alone, without distortion: focal lengths in the rows, no division, two sums in flight.
  double exact_gain_pinhole(const Pose<double>& pose) const {
    const double f[3] = {camera_.fx, camera_.fy, 1.0}, t[3] = {pose.t.x, pose.t.y, pose.t.z};
    PackD P[12], sum[2] = {PackD(0.0), PackD(0.0)};
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) P[4 * r + c] = PackD(f[r] * pose.R(r, c));
      P[4 * r + 3] = PackD(f[r] * t[r]);
    }
    const PackD zero(0.0), limit(limit2_);
    const auto kept = [&](std::int64_t i) {
      const PackD X = load(kX, i), Y = load(kY, i), Z = load(kZ, i);
      const PackD z = fma_(P[8], X, fma_(P[9], Y, fma_(P[10], Z, P[11])));
      const PackD inverse = quick_inverse(z);
      const PackD x = fma_(P[0], X, fma_(P[1], Y, fma_(P[2], Z, P[3])));
      const PackD y = fma_(P[4], X, fma_(P[5], Y, fma_(P[6], Z, P[7])));
      const PackD dx = fma_(x, inverse, -load(kU, i)), dy = fma_(y, inverse, -load(kV, i));
      const PackD left = limit - fma_(dx, dx, dy * dy);
      // A comparison with NaN is false: such lanes keep nothing.
      return load(kWeight, i) * select(mask_and(z > 0.0, left > 0.0), left, zero);
    };
    // padded_ is a multiple of the float width, which is two packs of doubles.
    for (std::int64_t i = 0; i < padded_; i += 2 * PackD::kWidth) {
      sum[0] += kept(i);
      sum[1] += kept(i + PackD::kWidth);
    }
    return reduce_add(sum[0] + sum[1]);
  }

  template <int Kind>
  float quick_gain_of(const Pose<double>& pose, double threshold) const {
    PackF P[12];
    const double t[3] = {pose.t.x, pose.t.y, pose.t.z};
    for (int r = 0; r < 3; ++r) {
      const double f = Kind != kPinhole || r == 2 ? 1.0 : r == 0 ? camera_.fx : camera_.fy;
      for (int c = 0; c < 3; ++c) P[4 * r + c] = PackF(float(f * pose.R(r, c)));
      P[4 * r + 3] = PackF(float(f * t[r] * scale_));
    }
    const PackF limit{float(limit2_)};
    const double loss_limit = weight_ * limit2_ - threshold;
    double loss = 0.0;
    for (std::int64_t begin = 0; begin < padded_; begin += kCheckEvery) {
      const std::int64_t end = begin + kCheckEvery < padded_ ? begin + kCheckEvery : padded_;
      PackF sum(0.0f);
      for (std::int64_t i = begin; i < end; i += PackF::kWidth) {
        const PackF X = loadf(kX, i), Y = loadf(kY, i), Z = loadf(kZ, i);
        const PackF z = fma_(P[8], X, fma_(P[9], Y, fma_(P[10], Z, P[11])));
        PackF x = fma_(P[0], X, fma_(P[1], Y, fma_(P[2], Z, P[3])));
        PackF y = fma_(P[4], X, fma_(P[5], Y, fma_(P[6], Z, P[7])));
        PackF dx, dy;
        if constexpr (Kind == kPinhole) {
          const PackF inverse = quick_inverse(z);
          dx = fma_(x, inverse, -loadf(kU, i));
          dy = fma_(y, inverse, -loadf(kV, i));
        } else {
          project_lanes<Kind>(float_camera_, x, y, z, dx, dy);
          dx = dx - loadf(kU, i);
          dy = dy - loadf(kV, i);
        }
        const PackF r2 = fma_(dx, dx, dy * dy);
        // A comparison with NaN is false: such lanes cost the limit.
        const PackF cost = select(mask_and(z > 0.0f, r2 < limit), r2, limit);
        sum = fma_(loadf(kWeight, i), cost, sum);
      }
      loss += double(reduce_add(sum));
      if (loss > loss_limit) return -HUGE_VALF;
    }
    return float(weight_ * limit2_ - loss);
  }

  Camera<double> camera_;
  Camera<float> float_camera_{};
  double limit2_, extent_ = 0.0, weight_ = 0.0, scale_ = 1.0, tolerance_ = 0.0;
  Vec3<double> center_{0, 0, 0};
  std::int64_t count_, padded_;
  Scratch<double> rows_;   // (6, padded)
  Scratch<float> single_;  // the same, points scaled to |X| <= 1
};

PYLOC_NAMESPACE_END
