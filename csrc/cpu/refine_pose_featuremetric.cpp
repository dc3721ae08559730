// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Eq. 4.12: sum_n w_n scale^2 rho(|h_n - H_q(project(R X_n + t))|^2 / scale^2) over the pose, H_q bilinear.
#include "cpu/refine_pose_featuremetric.h"

#include "cpu/feature_taps.h"
#include "cpu/pose_terms.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kChunk = 512;  // points per task; fixed, so that sums do not depend on the threads

// As in the reprojection refinement: the share of the weight that stays of the kernel's negative curvature
// near the minimum and far from it, and the step that counts as short, here in the descriptors' unit.
constexpr double kRadialFloorNear = 0.1, kRadialFloorFar = 1.0, kNearMotion = 0.3;

enum Row { kX, kY, kZ, kWeight, kMissing, kProduct, kRows = kProduct + kProducts };

// A pack of points at a pose: what pass one leaves for pass two.
struct Located {
  double a[kChunk], b[kChunk], used[kChunk], J[6][kChunk];
  bool finite;  // no cell entered so far held NaN or infinity, or values whose products overflow
};

// The image term of one pack and what the statistics need of it.
struct Distance {
  PackD s, gx, gy, jxx, jxy, jyy;  // |e|^2, G^T e, G^T G for e = h - F, G = dF / d(x, y)
};

struct Sums {
  NormalEquations<double> spread;  // sum of (J^T g)(J^T g)^T
  double effective;
  std::int64_t usable, consistent;
};

class Featuremetric {
 public:
  Featuremetric(const FeaturemetricProblem& problem, const Vec3<double>& center)
      : problem_(problem),
        map_{problem.features, problem.dtype,  problem.channels_last,
             problem.channels, problem.height, problem.width},
        padded_((problem.count + PackD::kWidth - 1) / PackD::kWidth * PackD::kWidth),
        chunks_((padded_ + kChunk - 1) / kChunk),
        rows_(std::size_t(padded_) * kRows),
        cells_(std::size_t(padded_)),
        parts_(std::size_t(chunks_)),
        spread_(std::size_t(chunks_)),
        located_(std::size_t(chunks_)),
        sums_(std::size_t(problem.channels_last ? 0 : chunks_ * kChunk * kProducts)) {
    if (!ready()) return;
    for (std::int64_t i = 0; i < padded_ * kRows; ++i) rows_[std::size_t(i)] = 0.0;
    for (std::int64_t n = 0; n < padded_; ++n) fill(n, center);
    for (std::int64_t c = 0; c < chunks_; ++c) located_[std::size_t(c)].finite = true;
  }

  bool ready() const { return rows_ && cells_ && parts_ && spread_ && located_ && sums_; }

  bool linearize(const Pose<double>& cam_from_centered, bool near, NormalEquations<double>& out) {
    for_chunks([&](std::int64_t chunk) {
      locate(cam_from_centered, chunk);
      visit_robust(problem_.loss,
                   [&](auto tag) { sum_chunk<decltype(tag)::value>(cam_from_centered.R, near, chunk); });
    });
    out = parts_[0];
    for (std::int64_t c = 1; c < chunks_; ++c) add_equations(out, parts_[std::size_t(c)]);
    bool finite = true;
    for (std::int64_t c = 0; c < chunks_; ++c) finite = finite && located_[std::size_t(c)].finite;
    return finite;
  }

  // At the pose of the last call of linearize.
  void finish(double* inlier_probability, Sums& sums) {
    sums.spread = spread_[0];
    for (std::int64_t c = 1; c < chunks_; ++c) add_equations(sums.spread, spread_[std::size_t(c)]);
    visit_robust(problem_.loss,
                 [&](auto tag) { weigh_points<decltype(tag)::value>(inlier_probability, sums); });
  }

 private:
  template <class Fn>
  void for_chunks(const Fn& fn) {
    if (chunks_ == 1)
      fn(std::int64_t(0));
    else
      runtime::parallel_for(chunks_, problem_.num_threads, fn);
  }
  PYLOC_INLINE double* row(int r) { return rows_.data() + r * padded_; }
  PYLOC_INLINE PackD load(int r, std::int64_t n) const { return PackD::load(rows_.data() + r * padded_ + n); }
  std::int64_t chunk_end(std::int64_t chunk) const {
    return (chunk + 1) * kChunk < padded_ ? (chunk + 1) * kChunk : padded_;
  }

  // Padding repeats the first point with weight zero, outside the map.
  void fill(std::int64_t n, const Vec3<double>& center) {
    const bool real = n < problem_.count;
    const double* X = problem_.points3d + 3 * (real ? n : 0);
    row(kX)[n] = X[0] - center.x;
    row(kY)[n] = X[1] - center.y;
    row(kZ)[n] = X[2] - center.z;
    row(kWeight)[n] = !real ? 0.0 : problem_.weights ? problem_.weights[n] : 1.0;
    cells_[std::size_t(n)] = -1;
    // Without a feature: the squared distance to one of the same length at a right angle.
    double length2 = 0.0;
    if (real)
      for (std::int64_t d = 0; d < problem_.channels; ++d) {
        const double h = problem_.descriptors[n * problem_.channels + d];
        length2 += h * h;
      }
    row(kMissing)[n] = 2.0 * length2;
  }

  // Pass one: where each point falls, and the inner products of the cells that were entered.
  void locate(const Pose<double>& pose, std::int64_t chunk) {
    Located& at = located_[std::size_t(chunk)];
    std::int32_t moved[kChunk];
    std::int64_t moved_cells[kChunk];
    int count = 0;
    const std::int64_t begin = chunk * kChunk, end = chunk_end(chunk);
    for (std::int64_t n = begin; n < end; n += PackD::kWidth) {
      const Vec3<PackD> RX = rotate_pack(pose.R, {load(kX, n), load(kY, n), load(kZ, n)});
      ProjectedPack p;
      project_pack(problem_.camera, {RX.x + PackD(pose.t.x), RX.y + PackD(pose.t.y), RX.z + PackD(pose.t.z)},
                   p);
      for (int k = 0; k < 6; ++k) select(p.front, p.J[k], PackD(0.0)).store(at.J[k] + (n - begin));
      for (int i = 0; i < PackD::kWidth; ++i) {
        const bool front = lane(p.front, i) && n + i < problem_.count;
        const std::int64_t cell = place(front, p.xy.x[i], p.xy.y[i], at, n - begin + i);
        if (cell < 0 || cell == cells_[std::size_t(n + i)]) continue;
        cells_[std::size_t(n + i)] = cell;
        moved[count] = std::int32_t(n + i);
        moved_cells[count++] = cell;
      }
    }
    if (!map_.channels_last) sort_by_cell(moved, moved_cells, count);
    if (count > 0) enter_cells(chunk, moved, moved_cells, count);
  }

  // Planes are then read front to back (Shell 1959; a few hundred entries).
  static void sort_by_cell(std::int32_t* points, std::int64_t* cells, int count) {
    const int gaps[] = {301, 132, 57, 23, 10, 4, 1};
    for (const int gap : gaps)
      for (int i = gap; i < count; ++i) {
        const std::int64_t cell = cells[i];
        const std::int32_t point = points[i];
        int k = i;
        for (; k >= gap && cells[k - gap] > cell; k -= gap) {
          cells[k] = cells[k - gap];
          points[k] = points[k - gap];
        }
        cells[k] = cell;
        points[k] = point;
      }
  }

  // The cell's index, or -1 outside the centres of the border cells, where there is nothing to interpolate.
  std::int64_t place(bool front, double x, double y, Located& at, std::int64_t i) const {
    const bool inside = front && x >= 0.0 && y >= 0.0 && x <= double(map_.width - 1) &&
                        y <= double(map_.height - 1) && map_.width > 1 && map_.height > 1;
    at.used[i] = inside;
    at.a[i] = at.b[i] = 0.0;
    if (!inside) {
      for (auto& J : at.J) J[i] = 0.0;
      return -1;
    }
    const int x0 = x < double(map_.width - 2) ? int(x) : map_.width - 2;
    const int y0 = y < double(map_.height - 2) ? int(y) : map_.height - 2;
    at.a[i] = x - double(x0);
    at.b[i] = y - double(y0);
    return std::int64_t(y0) * map_.width + x0;
  }

  void enter_cells(std::int64_t chunk, const std::int32_t* points, const std::int64_t* cells, int count) {
    if (map_.dtype == kFloat32)
      enter_cells_of<LoadFloat32>(chunk, points, cells, count);
    else if (map_.dtype == kFloat16)
      enter_cells_of<LoadFloat16>(chunk, points, cells, count);
    else
      enter_cells_of<LoadBf16>(chunk, points, cells, count);
  }
  template <class Load>
  void enter_cells_of(std::int64_t chunk, const std::int32_t* points, const std::int64_t* cells, int count) {
    if (problem_.normalized)
      products_of<true, Load>(chunk, points, cells, count);
    else
      products_of<false, Load>(chunk, points, cells, count);
  }
  template <bool normalized, class Load>
  void products_of(std::int64_t chunk, const std::int32_t* points, const std::int64_t* cells, int count) {
    const float* descriptors = problem_.descriptors;
    if (map_.channels_last) {
      for (int i = 0; i < count; ++i)
        cell_products_last<normalized, Load>(map_, descriptors + points[i] * map_.channels, cells[i],
                                             row(kProduct) + points[i], padded_);
    } else {
      cell_products_first<normalized, Load>(map_, descriptors, points, cells, count,
                                            sums_.data() + chunk * kChunk * kProducts, row(kProduct),
                                            padded_);
    }
    double total = 0.0;
    for (int k = 0; k < (normalized ? 15 : 10); ++k)
      for (int i = 0; i < count; ++i) total += row(kProduct + k)[points[i]];
    if (!isfinite_(total)) located_[std::size_t(chunk)].finite = false;
  }

  PYLOC_INLINE PackD product(int i, int j, std::int64_t n) const {
    return load(kProduct + (i >= j ? product_index(i, j) : product_index(j, i)), n);
  }

  // <v_i, w> for w = c0 v0 + c1 v1 + c2 v2 + c3 v3 (+ c4 v4).
  template <int terms>
  PYLOC_INLINE PackD with(int i, const PackD* c, std::int64_t n) const {
    PackD sum = c[0] * product(i, 0, n);
    for (int j = 1; j < terms; ++j) sum = fma_(c[j], product(i, j, n), sum);
    return sum;
  }

  PYLOC_INLINE Distance distance(std::int64_t n, PackD a, PackD b) const {
    const PackD ab = a * b, e[4] = {PackD(1.0), -a, -b, -ab};  // h - F
    PackD q[4];
    for (int i = 0; i < 4; ++i) q[i] = with<4>(i, e, n);
    Distance out;
    out.s = max_(q[0] - a * q[1] - b * q[2] - ab * q[3], PackD(0.0));
    out.gx = q[1] + b * q[3];
    out.gy = q[2] + a * q[3];
    const PackD v33 = product(3, 3, n), v13 = product(3, 1, n), v23 = product(3, 2, n);
    out.jxx = product(1, 1, n) + b * (PackD(2.0) * v13 + b * v33);
    out.jyy = product(2, 2, n) + a * (PackD(2.0) * v23 + a * v33);
    out.jxy = product(2, 1, n) + a * v13 + b * v23 + ab * v33;
    if (problem_.normalized) normalize(n, a, b, e, out);
    return out;
  }

  // From e = h - F to h - F / |F|, |h| = 1: e + k F with k = 1 - 1 / |F|, and
  // d(F / |F|) = (G - F (F^T G) / |F|^2) / |F|, to which F is orthogonal.
  PYLOC_INLINE void normalize(std::int64_t n, PackD a, PackD b, const PackD e[4], Distance& d) const {
    const PackD f[5] = {PackD(0.0), a, b, a * b, PackD(1.0)};
    PackD p[5];
    for (int i = 0; i < 5; ++i) p[i] = with<5>(i, f, n);
    const PackD FF = max_(p[4] + a * p[1] + b * p[2] + a * b * p[3], PackD(1e-30));
    const PackD eF = p[0] + e[1] * p[1] + e[2] * p[2] + e[3] * p[3];
    const PackD fx = p[1] + b * p[3], fy = p[2] + a * p[3];
    const PackD inv2 = PackD(1.0) / FF, inv = sqrt_(inv2), k = PackD(1.0) - inv;
    d.s = max_(d.s + k * (PackD(2.0) * eF + k * FF), PackD(0.0));
    d.gx = (d.gx - eF * fx * inv2) * inv;
    d.gy = (d.gy - eF * fy * inv2) * inv;
    d.jxx = max_(d.jxx - fx * fx * inv2, PackD(0.0)) * inv2;
    d.jyy = max_(d.jyy - fy * fy * inv2, PackD(0.0)) * inv2;
    d.jxy = (d.jxy - fx * fy * inv2) * inv2;
  }

  // s in units of the scale; points without a feature get their constant.
  PYLOC_INLINE PackD scaled_distance(std::int64_t n, PackMask<double> used, const Distance& d) const {
    return PackD(problem_.loss.inv_scale2) * select(used, d.s, load(kMissing, n));
  }

  // Pass two: the sums of the normal equations and of the spread of the gradients.
  template <int kind>
  void sum_chunk(const Mat3<double>& R, bool near, std::int64_t chunk) {
    const Located& at = located_[std::size_t(chunk)];
    NormalPack sums, spread;
    const PackD zero(0.0), scale2(problem_.loss.scale2), inv_scale2(problem_.loss.inv_scale2);
    const PackD radial((near ? kRadialFloorNear : kRadialFloorFar) - 1.0);
    const std::int64_t begin = chunk * kChunk, end = chunk_end(chunk);
    for (std::int64_t n = begin; n < end; n += PackD::kWidth) {
      const std::int64_t i = n - begin;
      const PackMask<double> used = PackD::load(at.used + i) > 0.0;
      const Distance d = distance(n, PackD::load(at.a + i), PackD::load(at.b + i));
      const PackD s = scaled_distance(n, used, d);
      const RobustTerm<PackD> k = robust_term<kind, PackD>(s, problem_.loss);
      const PackD point = load(kWeight, n), w = select(used, point * k.weight, zero);
      const PackD floor = k.weight * radial / max_(s, PackD(1e-300));
      const PackD bend = select(used, point * inv_scale2 * max_(PackD(2.0) * k.slope, floor), zero);
      PackD J[6];
      for (int c = 0; c < 6; ++c) J[c] = PackD::load(at.J[c] + i);
      const Vec3<PackD> RX = rotate_pack(R, {load(kX, n), load(kY, n), load(kZ, n)});
      const PackD gx = select(used, d.gx, zero), gy = select(used, d.gy, zero);
      sums.add({point * scale2 * k.rho, w * gx, w * gy, w * d.jxx + bend * gx * gx,
                w * d.jxy + bend * gx * gy, w * d.jyy + bend * gy * gy},
               J, RX);
      if (near) spread.add({zero, zero, zero, w * w * gx * gx, w * w * gx * gy, w * w * gy * gy}, J, RX);
    }
    sums.store(parts_[std::size_t(chunk)]);
    spread.store(spread_[std::size_t(chunk)]);
  }

  template <int kind>
  void weigh_points(double* probability, Sums& sums) const {
    for (std::int64_t n = 0; n < padded_; n += PackD::kWidth) {
      const Located& at = located_[std::size_t(n / kChunk)];
      const std::int64_t i = n % kChunk;
      const PackMask<double> used = PackD::load(at.used + i) > 0.0;
      const Distance d = distance(n, PackD::load(at.a + i), PackD::load(at.b + i));
      const PackD s = scaled_distance(n, used, d);
      const PackD inlier = select(used, robust_term<kind, PackD>(s, problem_.loss).weight, PackD(0.0));
      for (int l = 0; l < PackD::kWidth && n + l < problem_.count; ++l) {
        probability[n + l] = inlier[l];
        const bool usable = lane(used, l) && load(kWeight, n)[l] > 0.0;
        sums.usable += usable;
        sums.consistent += usable && inlier[l] >= 0.5;
        sums.effective += usable ? inlier[l] : 0.0;
      }
    }
  }

  const FeaturemetricProblem& problem_;
  FeatureMap map_;
  std::int64_t padded_, chunks_;
  Scratch<double> rows_;
  Scratch<std::int64_t> cells_;
  Scratch<NormalEquations<double>> parts_, spread_;
  Scratch<Located> located_;
  Scratch<float> sums_;
};

// The sandwich of a misspecified model (Huber 1967, White 1980): H^-1 S H^-1, H the curvature of the cost and
// S the spread of the points' gradients, with n / (n - 3) for the six fitted parameters. Differences of
// descriptors are no white noise, so J^T J alone would not do.
bool covariance(const NormalEquations<double>& curvature, const Sums& sums, double out[36]) {
  double inverse[36], middle[36];
  if (!observed_inverse(curvature.A, inverse)) return false;
  const double n = double(sums.usable), correction = n > 3.0 ? n / (n - 3.0) : n;
  for (int r = 0; r < 6; ++r)
    for (int c = 0; c < 6; ++c) {
      double sum = 0.0;
      for (int k = 0; k < 6; ++k) {
        const int hi = k > c ? k : c, lo = k > c ? c : k;
        sum += inverse[6 * r + k] * sums.spread.A[hi * (hi + 1) / 2 + lo];
      }
      middle[6 * r + c] = sum * correction;
    }
  for (int r = 0; r < 6; ++r)
    for (int c = 0; c < 6; ++c) {
      out[6 * r + c] = 0.0;
      for (int k = 0; k < 6; ++k) out[6 * r + c] += middle[6 * r + k] * inverse[6 * k + c];
    }
  return true;
}

bool run(const FeaturemetricProblem& problem, RefinedPose& result, double* inlier_probability) {
  const Vec3<double> center = mean_point(problem.points3d, problem.count);
  Featuremetric points(problem, center);
  if (!points.ready()) return false;
  Pose<double> pose = centered_pose(load_pose<double>(result.cam_from_world), center);
  const double unit = problem.loss.scale2 * double(problem.count);
  const LevenbergOptions<double> options{problem.max_iterations, problem.tolerance, 1e-14 * unit,
                                         kNearMotion * kNearMotion * unit};
  NormalEquations<double> equations;
  const LevenbergResult solved = levenberg(points, options, pose, equations);
  result.cost = equations.cost;
  result.iterations = solved.iterations;
  result.stop = int(solved.stop);
  points.linearize(pose, true, equations);  // the driver's last trial may have been a rejected one
  Sums sums{};
  points.finish(inlier_probability, sums);
  result.effective_inliers = sums.effective;
  result.num_usable = sums.usable;
  result.num_consistent = sums.consistent;
  result.observed = covariance(equations, sums, result.covariance);
  if (result.observed) uncenter_covariance(pose.R * center, result.covariance);
  store_pose(world_pose(pose, center), result.cam_from_world);
  return true;
}

}  // namespace

const RefinePoseFeaturemetricKernels& refine_pose_featuremetric_kernels() {
  static constexpr RefinePoseFeaturemetricKernels kernels{&run};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
