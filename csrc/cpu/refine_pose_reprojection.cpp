// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Eq. 4.1: sum_n w_n scale^2 rho(|x_n - project(R X_n + t)|^2 / scale^2) over the pose.
#include "cpu/refine_pose_reprojection.h"

#include "cpu/pose_terms.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kChunk = 4096;  // points per task; fixed, so that sums do not depend on the threads

// Residuals longer than this many focal lengths, and points behind the camera, all cost the same and pull
// nowhere: unbounded kernels stay finite, and a start with some points behind can still be improved.
constexpr double kResidualCap = 10.0;

// A kernel's curvature along the residual goes negative beyond its inflection; this share of the weight
// keeps the model's matrix positive definite. 1 is plain reweighting.
constexpr double kRadialFloorNear = 0.1, kRadialFloorFar = 1.0;

// A step is short when it moves the projections by less than this share of the kernel's scale (root mean
// square). Measured: between 0.3 and 3 the number of iterations hardly changes.
constexpr double kNearMotion = 1.0;

enum Row { kX, kY, kZ, kU, kV, kWeight, kL11, kL21, kL22, kRows };

struct Sums {  // of the statistics at the solution
  double weight, curvature, squares, effective;
  std::int64_t usable, consistent;
};

class Reprojection {
 public:
  Reprojection(const ReprojectionProblem& problem, const Vec3<double>& center)
      : problem_(problem),
        padded_((problem.count + PackD::kWidth - 1) / PackD::kWidth * PackD::kWidth),
        chunks_((padded_ + kChunk - 1) / kChunk),
        rows_(std::size_t(padded_) * kRows),
        parts_(std::size_t(chunks_)) {
    if (!rows_ || !parts_) return;
    const double cap = kResidualCap * max_(problem.camera.fx, problem.camera.fy);
    cap2_ = cap * cap;
    for (std::int64_t n = 0; n < padded_; ++n) fill(n, center);
  }

  bool ready() const { return rows_ && parts_; }

  bool linearize(const Pose<double>& cam_from_centered, bool near, NormalEquations<double>& out) {
    visit_robust(problem_.loss, [&](auto tag) {
      const auto run = [&](std::int64_t chunk) {
        linearize_chunk<decltype(tag)::value>(cam_from_centered, near, chunk, parts_[std::size_t(chunk)]);
      };
      if (chunks_ == 1)
        run(0);
      else
        runtime::parallel_for(chunks_, problem_.num_threads, run);
    });
    out = parts_[0];
    for (std::int64_t c = 1; c < chunks_; ++c) add_equations(out, parts_[std::size_t(c)]);
    return true;
  }

  // Per-point weights, and the sums the covariance needs. `information` gets sum w J^T J.
  Sums finish(const Pose<double>& cam_from_centered, NormalEquations<double>& information,
              double* inlier_probability) const {
    Sums sums{};
    visit_robust(problem_.loss, [&](auto tag) {
      finish_points<decltype(tag)::value>(cam_from_centered, information, inlier_probability, sums);
    });
    return sums;
  }

 private:
  PYLOC_INLINE double* row(int r) { return rows_.data() + r * padded_; }
  PYLOC_INLINE PackD load(int r, std::int64_t n) const { return PackD::load(rows_.data() + r * padded_ + n); }

  // Padding repeats the first point with weight zero.
  void fill(std::int64_t n, const Vec3<double>& center) {
    const std::int64_t from = n < problem_.count ? n : 0;
    const double* X = problem_.points3d + 3 * from;
    row(kX)[n] = X[0] - center.x;
    row(kY)[n] = X[1] - center.y;
    row(kZ)[n] = X[2] - center.z;
    row(kU)[n] = problem_.points2d[2 * from];
    row(kV)[n] = problem_.points2d[2 * from + 1];
    row(kWeight)[n] = n != from ? 0.0 : problem_.weights ? problem_.weights[n] : 1.0;
    if (!problem_.whitening) return;
    for (int k = 0; k < 3; ++k) row(kL11 + k)[n] = problem_.whitening[3 * from + k];
  }

  // What a residual r = x - p does to the image: s, the inverse covariance L L^T, its product with r.
  struct Residual {
    PackD s, kx, ky, ixx, ixy, iyy;
    PackMask<double> used;
  };

  PYLOC_INLINE Residual residual(std::int64_t n, const ProjectedPack& p) const {
    const PackD rx = load(kU, n) - p.xy.x, ry = load(kV, n) - p.xy.y;
    const PackD inv_scale2(problem_.loss.inv_scale2);
    Residual out;
    out.ixx = out.iyy = inv_scale2;
    out.ixy = PackD(0.0);
    if (problem_.whitening) {
      const PackD l11 = load(kL11, n), l21 = load(kL21, n), l22 = load(kL22, n);
      out.ixx = inv_scale2 * l11 * l11;
      out.ixy = inv_scale2 * l11 * l21;
      out.iyy = inv_scale2 * (l21 * l21 + l22 * l22);
    }
    out.kx = out.ixx * rx + out.ixy * ry;
    out.ky = out.ixy * rx + out.iyy * ry;
    out.used = mask_and(p.front, rx * rx + ry * ry < cap2_);
    const PackD capped = PackD(0.5 * cap2_) * (out.ixx + out.iyy);
    out.s = select(out.used, rx * out.kx + ry * out.ky, capped);
    return out;
  }

  template <int kind>
  void linearize_chunk(const Pose<double>& pose, bool near, std::int64_t chunk,
                       NormalEquations<double>& out) const {
    NormalPack sums;
    const std::int64_t end = min_index(padded_, (chunk + 1) * kChunk);
    const PackD zero(0.0), scale2(problem_.loss.scale2);
    const PackD radial((near ? kRadialFloorNear : kRadialFloorFar) - 1.0);
    for (std::int64_t n = chunk * kChunk; n < end; n += PackD::kWidth) {
      const Vec3<PackD> RX = rotate_pack(pose.R, {load(kX, n), load(kY, n), load(kZ, n)});
      ProjectedPack p;
      project_pack(problem_.camera, in_camera(RX, pose.t), p);
      const Residual r = residual(n, p);
      const RobustTerm<PackD> k = robust_term<kind, PackD>(r.s, problem_.loss);
      const PackD point = scale2 * load(kWeight, n);
      // Half the Hessian of rho: rho' I + 2 rho'' (k k^T), its radial eigenvalue kept positive.
      const PackD w = select(r.used, point * k.weight, zero);
      const PackD floor = k.weight * radial / max_(r.s, PackD(1e-300));
      const PackD bend = select(r.used, point * max_(PackD(2.0) * k.slope, floor), zero);
      ImageTerm term{point * k.rho, w * r.kx, w * r.ky, zero, zero, zero};
      term.mxx = w * r.ixx + bend * r.kx * r.kx;
      term.mxy = w * r.ixy + bend * r.kx * r.ky;
      term.myy = w * r.iyy + bend * r.ky * r.ky;
      mask_jacobian(r.used, p);
      sums.add(term, p.J, RX);
    }
    sums.store(out);
  }

  template <int kind>
  void finish_points(const Pose<double>& pose, NormalEquations<double>& information, double* probability,
                     Sums& sums) const {
    NormalPack equations;
    const PackD zero(0.0), scale2(problem_.loss.scale2);
    PackD weight(0.0), curvature(0.0), squares(0.0), effective(0.0);
    for (std::int64_t n = 0; n < padded_; n += PackD::kWidth) {
      const Vec3<PackD> RX = rotate_pack(pose.R, {load(kX, n), load(kY, n), load(kZ, n)});
      ProjectedPack p;
      project_pack(problem_.camera, in_camera(RX, pose.t), p);
      const Residual r = residual(n, p);
      const RobustTerm<PackD> k = robust_term<kind, PackD>(r.s, problem_.loss);
      const PackD point = load(kWeight, n), inlier = select(r.used, k.weight, zero);
      const PackD w = point * inlier;
      weight += w;
      effective += select(point > zero, inlier, zero);
      curvature += select(r.used, point * (k.weight + k.slope * r.s), zero);
      squares += w * k.weight * select(r.used, r.s, zero);
      mask_jacobian(r.used, p);
      equations.add({zero, zero, zero, scale2 * w * r.ixx, scale2 * w * r.ixy, scale2 * w * r.iyy}, p.J, RX);
      count_lanes(n, point, inlier, r.used, probability, sums);
    }
    equations.store(information);
    sums.weight = reduce_add(weight);
    sums.curvature = reduce_add(curvature);
    sums.squares = problem_.loss.scale2 * reduce_add(squares);
    sums.effective = reduce_add(effective);
  }

  void count_lanes(std::int64_t n, PackD point, PackD inlier, PackMask<double> used, double* probability,
                   Sums& sums) const {
    for (int i = 0; i < PackD::kWidth && n + i < problem_.count; ++i) {
      probability[n + i] = inlier[i];
      const bool usable = point[i] > 0.0 && lane(used, i);
      sums.usable += usable;
      sums.consistent += usable && inlier[i] >= 0.5;
    }
  }

  static PYLOC_INLINE Vec3<PackD> in_camera(const Vec3<PackD>& RX, const Vec3<double>& t) {
    return {RX.x + PackD(t.x), RX.y + PackD(t.y), RX.z + PackD(t.z)};
  }
  // Zero times an infinite Jacobian would be NaN.
  static PYLOC_INLINE void mask_jacobian(PackMask<double> used, ProjectedPack& p) {
    for (PackD& j : p.J) j = select(used, j, PackD(0.0));
  }
  static PYLOC_INLINE std::int64_t min_index(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

  const ReprojectionProblem& problem_;
  std::int64_t padded_, chunks_;
  Scratch<double> rows_;
  Scratch<NormalEquations<double>> parts_;
  double cap2_ = 0.0;
};

// Asymptotic covariance of an M-estimator (Huber 1981, section 7.6), with the points weighted by rho' so that
// outliers count neither in J^T J nor in the noise: sigma^2 / kappa^2 (sum w J^T J)^-1, where
// sigma^2 = sum w rho' r^2 / (2 sum w - 6) per coordinate and kappa = sum (rho' + s rho'') / sum w.
bool covariance(const NormalEquations<double>& information, const Sums& sums, double scale2, double out[36]) {
  if (!observed_inverse(information.A, out)) return false;
  const double freedom = 2.0 * sums.weight - 6.0;
  // Without redundancy the residuals say nothing about the noise: the scale stands in for it.
  const double sigma2 = freedom >= 1.0 ? sums.squares / freedom : scale2;
  const double kappa = max_(sums.curvature / sums.weight, 0.1);
  for (int i = 0; i < 36; ++i) out[i] *= sigma2 / (kappa * kappa);
  return true;
}

bool run(const ReprojectionProblem& problem, RefinedPose& result, double* inlier_probability) {
  const Vec3<double> center = mean_point(problem.points3d, problem.count);
  Reprojection points(problem, center);
  if (!points.ready()) return false;
  Pose<double> pose = centered_pose(load_pose<double>(result.cam_from_world), center);
  const double unit = problem.loss.scale2 * double(problem.count);
  const LevenbergOptions<double> options{problem.max_iterations, problem.tolerance, 1e-20 * unit,
                                         kNearMotion * kNearMotion * unit};
  NormalEquations<double> equations;
  const LevenbergResult solved = levenberg(points, options, pose, equations);
  result.cost = equations.cost;
  result.iterations = solved.iterations;
  result.stop = int(solved.stop);
  const Sums sums = points.finish(pose, equations, inlier_probability);
  result.effective_inliers = sums.effective;
  result.num_usable = sums.usable;
  result.num_consistent = sums.consistent;
  result.observed = covariance(equations, sums, problem.loss.scale2, result.covariance);
  if (result.observed) uncenter_covariance(pose.R * center, result.covariance);
  store_pose(world_pose(pose, center), result.cam_from_world);
  return true;
}

}  // namespace

const RefinePoseReprojectionKernels& refine_pose_reprojection_kernels() {
  static constexpr RefinePoseReprojectionKernels kernels{&run};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
