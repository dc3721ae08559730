// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One pass over all maps: energy, normal equations and the gain ratio's two sums, in chunks of maps whose
// partial sums are added in order, so that the bits do not depend on the number of threads.
#pragma once

#include "cpu/gnc_entries.h"
#include "pyloc/camera.h"
#include "pyloc/consensus.h"
#include "pyloc/se3.h"
#include "runtime/thread_pool.h"

PYLOC_NAMESPACE_BEGIN

constexpr std::int64_t kMapsPerChunk = 64;
constexpr int kNormal = 21;
static_assert(kMapsPerChunk % PackD::kWidth == 0, "chunks are whole packs");

struct PassSums {
  double energy, decrease, increase, A[kNormal], b[6];
};

// A problem prepared once: points as a structure of arrays padded to whole chunks, the index of rows.
struct GncProblem {
  const LossMapsView* maps;
  Camera<double> camera;
  std::int64_t chunks;
  double *X, *Y, *Z;         // (chunks * 64)
  std::int16_t* first_rows;  // block index of gnc_entries.h
  float *peak, *share;       // (N): pyloc/consensus.h
  PassSums* partial;         // (chunks)
  int num_threads;
  bool published;  // project as the published program does
};

// Projections and pose Jacobians of the points of one chunk.
struct ChunkGeometry {
  alignas(64) double px[kMapsPerChunk], py[kMapsPerChunk];
  alignas(64) double J[12][kMapsPerChunk];
};

constexpr double kNowhere = -1e6;  // a projection that touches no map

// Pinhole and OpenCV models in SIMD; the formulas of pyloc/camera.h without its branches.
template <bool kPublished>
PYLOC_INLINE void project_pack(const Camera<PackD>& cam, const Vec3<PackD>& Xc, Vec2<PackD>& xy,
                               PackMask<double>& valid, PackD J[6]) {
  valid = kPublished ? Xc.z >= kPublishedNear : Xc.z > 0.0;
  const PackD z = kPublished ? Xc.z + kPublishedDepthShift : Xc.z;
  const PackD iz = PackD(1.0) / select(valid, z, PackD(1.0));
  const PackD u = Xc.x * iz, v = Xc.y * iz;
  PackD ud = u, vd = v, D[4] = {PackD(1.0), PackD(0.0), PackD(0.0), PackD(1.0)};
  if (cam.kind == kOpenCV) distort_opencv(cam.d, u, v, ud, vd, D);
  if (kPublished && cam.kind == kOpenCV) {  // k1 alone enters the published derivative
    const PackD zero(0.0), k1[8] = {cam.d[0], zero, zero, zero, zero, zero, zero, zero};
    PackD unused_u, unused_v;
    distort_opencv(k1, u, v, unused_u, unused_v, D);
  }
  xy = {cam.fx * ud + cam.cx, cam.fy * vd + cam.cy};
  for (int r = 0; r < 2; ++r) {
    const PackD f = (r == 0 ? cam.fx : cam.fy) * iz;
    J[3 * r + 0] = f * D[2 * r];
    J[3 * r + 1] = f * D[2 * r + 1];
    J[3 * r + 2] = -f * (D[2 * r] * u + D[2 * r + 1] * v);
  }
}

// The fisheye model has branches on values: lane by lane.
inline void project_lanes(const Camera<double>& cam, const Vec3<PackD>& Xc, Vec2<PackD>& xy,
                          PackMask<double>& valid, PackD J[6]) {
  PackD ok(0.0);
  for (int l = 0; l < PackD::kWidth; ++l) {
    Vec2<double> p{0.0, 0.0};
    double j[6] = {};
    ok.set(l, project_jacobian(cam, Vec3<double>{Xc.x[l], Xc.y[l], Xc.z[l]}, p, j) ? 1.0 : 0.0);
    xy.x.set(l, p.x);
    xy.y.set(l, p.y);
    for (int k = 0; k < 6; ++k) J[k].set(l, j[k]);
  }
  valid = ok > 0.5;
}

inline void project_chunk(const GncProblem& problem, const Pose<double>& pose, std::int64_t chunk,
                          double sigma, ChunkGeometry& g) {
  const double reach = min_(kReachSigmas * sigma, kOutside);
  const Camera<PackD> cam = convert<PackD>(problem.camera);
  Mat3<PackD> R;
  for (int k = 0; k < 9; ++k) R.m[k] = PackD(pose.R.m[k]);
  const Vec3<PackD> t{PackD(pose.t.x), PackD(pose.t.y), PackD(pose.t.z)};
  const double right = problem.maps->map_w - 1 + reach, bottom = problem.maps->map_h - 1 + reach;
  for (std::int64_t i = 0; i < kMapsPerChunk; i += PackD::kWidth) {
    const std::int64_t at = chunk * kMapsPerChunk + i;
    const Vec3<PackD> X{PackD::load(problem.X + at), PackD::load(problem.Y + at),
                        PackD::load(problem.Z + at)};
    const Vec3<PackD> RX = R * X;
    PackD J_point[6], J[12];
    Vec2<PackD> xy;
    PackMask<double> valid;
    if (cam.kind == kFisheye)
      project_lanes(problem.camera, RX + t, xy, valid, J_point);
    else if (problem.published)
      project_pack<true>(cam, RX + t, xy, valid, J_point);
    else
      project_pack<false>(cam, RX + t, xy, valid, J_point);
    // NaN fails these comparisons.
    valid = mask_and(
        valid, mask_and(mask_and(xy.x >= -reach, xy.x <= right), mask_and(xy.y >= -reach, xy.y <= bottom)));
    pose_jacobian(J_point, RX, J);
    select(valid, xy.x, PackD(kNowhere)).store(g.px + i);
    select(valid, xy.y, PackD(kNowhere)).store(g.py + i);
    for (int k = 0; k < 12; ++k) select(valid, J[k], PackD(0.0)).store(g.J[k] + i);
  }
}

// What the maps of a chunk add, with their energies beside it. `before` (null: none) holds the energies of
// the pose that the trial is compared with.
inline void sum_chunk(const GncProblem& problem, const Pose<double>& pose, double sigma, std::int64_t chunk,
                      const double* before, double* energies, PassSums& out) {
  ChunkGeometry g;
  project_chunk(problem, pose, chunk, sigma, g);
  alignas(64) double mass[kMapsPerChunk] = {}, sx[kMapsPerChunk] = {}, sy[kMapsPerChunk] = {};
  const std::int64_t first = chunk * kMapsPerChunk, rest = problem.maps->count - first;
  const std::int64_t count = rest < kMapsPerChunk ? rest : kMapsPerChunk;
  // First where to read, for all maps of the chunk, so that memory is on its way when the sums begin.
  EntryWindow windows[kMapsPerChunk];
  for (std::int64_t i = 0; i < count; ++i) {
    if (g.px[i] == kNowhere) {
      windows[i].range = {0, 0};
      continue;
    }
    windows[i] = window_around(*problem.maps, problem.first_rows, first + i, g.px[i], g.py[i], sigma);
    prefetch(*problem.maps, windows[i].range);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (windows[i].range.begin == windows[i].range.end) continue;
    const MapSums<double> s = map_sums(*problem.maps, windows[i], sigma);
    mass[i] = s.mass;
    sx[i] = s.x;
    sy[i] = s.y;
  }
  const double density = gnc_density(sigma);
  const PackD weight(density / (sigma * sigma)), zero(0.0);
  PackD energy = zero, decrease = zero, increase = zero, A[kNormal], b[6];
  for (PackD& a : A) a = zero;
  for (PackD& a : b) a = zero;
  for (std::int64_t i = 0; i < kMapsPerChunk; i += PackD::kWidth) {
    PackD J[12];
    for (int k = 0; k < 12; ++k) J[k] = PackD::load(g.J[k] + i);
    const PackD m = PackD::load(mass + i), e = m * -density;
    const PackD w = m * weight, wx = PackD::load(sx + i) * weight, wy = PackD::load(sy + i) * weight;
    add_normal(A, J, w, zero, w);
    for (int k = 0; k < 6; ++k) b[k] = b[k] + J[k] * wx + J[6 + k] * wy;
    energy += e;
    e.store(energies + first + i);
    if (before) {
      const PackD fall = PackD::load(before + first + i) - e;
      decrease += max_(fall, zero);
      increase += max_(-fall, zero);
    }
  }
  out.energy = reduce_add(energy);
  out.decrease = reduce_add(decrease);
  out.increase = reduce_add(increase);
  for (int k = 0; k < kNormal; ++k) out.A[k] = reduce_add(A[k]);
  for (int k = 0; k < 6; ++k) out.b[k] = reduce_add(b[k]);
}

inline PassSums run_pass(const GncProblem& problem, const Pose<double>& pose, double sigma,
                         const double* before, double* energies) {
  runtime::parallel_for(problem.chunks, problem.num_threads, [&](std::int64_t chunk) {
    sum_chunk(problem, pose, sigma, chunk, before, energies, problem.partial[chunk]);
  });
  PassSums total{};
  for (std::int64_t c = 0; c < problem.chunks; ++c) {
    const PassSums& part = problem.partial[c];
    total.energy += part.energy;
    total.decrease += part.decrease;
    total.increase += part.increase;
    for (int k = 0; k < kNormal; ++k) total.A[k] += part.A[k];
    for (int k = 0; k < 6; ++k) total.b[k] += part.b[k];
  }
  return total;
}

PYLOC_NAMESPACE_END
