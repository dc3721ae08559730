// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// From the pose where a refinement ended to its result: Eq. 4.6 there, consensus, covariance. And the whole
// of it, `refine_problem`: what one block of the GPU does.
#pragma once

#include "pyloc/gnc_run.h"

PYLOC_NAMESPACE_BEGIN

// Bilinear gains at the pose and who agrees with it, into shared.gain and shared.found.
template <class Group>
PYLOC_HD PYLOC_COLD void judge(const Group& group, GncShared& shared, double* inlier) {
  const GncView& view = shared.view;
  double sums[4] = {};  // gain, usable, consistent, share
  for_owned(group, view, [&](std::int64_t n) {
    Vec2<double> p;
    const bool seen = project(view.camera, transform(shared.pose, framed_point(view, n)), p);
    const double gain = seen ? bilinear_gain(*view.maps, n, p.x, p.y) : 0.0;
    inlier[n] = -::expm1(-gain);
    sums[0] += gain;
    if (!is_usable(view, n)) return;
    sums[1] += 1.0;
    sums[2] += is_consistent(gain, view.peak[n]) ? 1.0 : 0.0;
    sums[3] += double(view.share[n]);
  });
  const double* total = group.sum(sums);
  if (group.leads()) {
    const double share = total[1] > 0.0 ? total[3] / total[1] : 0.0;
    shared.gain = total[0];
    shared.found = consensus(std::int64_t(total[1]), std::int64_t(total[2]), share);
  }
  group.sync();
}

// J, H and sum w r of a map (kMapTerms). False: it says nothing.
PYLOC_HD inline bool map_terms(const GncView& view, const Pose<double>& pose, std::int64_t n, double sigma,
                               double terms[kMapTerms]) {
  const MapSums<float> s = view.sums[n];
  if (s.mass == 0.0f) return false;
  const MapMoments<float> m = view.moments[n];
  const double weight = gnc_density(sigma) / (sigma * sigma);
  point_jacobian(view, pose, n, terms);
  map_curvature({double(s.mass), double(s.x), double(s.y)}, {double(m.xx), double(m.xy), double(m.yy)}, sigma,
                terms + 12);
  terms[15] = weight * double(s.x);
  terms[16] = weight * double(s.y);
  return true;
}

// Inverse curvature into shared.C, scaled by the dispersion of the votes. The maps' terms are worked out
// once more when the inverse is known, which is cheaper than room for 17 numbers per map.
template <class Group>
PYLOC_HD PYLOC_COLD bool measure_covariance(const Group& group, GncShared& shared, double sigma) {
  const GncView& view = shared.view;
  sum_entries<true>(group, view, shared.pose, sigma);
  double moves = 0.0;
  for (int round = 0; round < 2; ++round) {
    double terms[22] = {};  // curvature, then moves
    for_owned(group, view, [&](std::int64_t n) {
      double t[kMapTerms];
      if (!map_terms(view, shared.pose, n, sigma, t)) return;
      if (round == 1)
        terms[21] += leave_out_move(t, shared.C);
      else if (t[12] > 0.0 || t[14] > 0.0)
        add_normal(terms, t, t[12], t[13], t[14]);
    });
    const double* total = group.sum(terms);
    moves = total[21];
    if (round == 1) break;
    if (group.leads()) shared.task = invert_curvature(total, shared.C) ? 1 : 0;
    group.sync();
    if (shared.task == 0) return false;
  }
  if (!isfinite_(moves)) return false;
  const double c = max_(moves / 6.0, kMinDispersion);
  for (int k = 0; k < 36 && group.leads(); ++k) shared.C[k] *= c;
  return true;
}

// What belongs to the problem as a whole, by one thread of the group; it leads its part.
PYLOC_HD PYLOC_COLD void write_result(const GncBatch& batch, std::int64_t b, GncShared& shared, int verdict) {
  const bool success = verdict == kGncFound;
  double* pose = batch.cam_from_world + 12 * b;
  for (int k = 0; k < 12; ++k) pose[k] = batch.start[12 * b + k];  // not even rounding changes what was not
  const Vec3<double> shift = shared.pose.R * shared.view.origin;   // refined
  if (shared.state.iterations > 0) store_pose(Pose<double>{shared.pose.R, shared.pose.t - shift}, pose);
  if (success) move_covariance(shift, shared.C);
  for (int k = 0; k < 36; ++k) batch.covariance[36 * b + k] = success ? shared.C[k] : HUGE_VAL;
  batch.scores[3 * b] = double(shared.view.count) * batch.maps.log_cardinality - shared.gain;
  batch.scores[3 * b + 1] = shared.gain;
  batch.scores[3 * b + 2] = shared.energy;
  std::int32_t* counts = batch.counts + 4 * b;
  counts[0] = verdict * kGncReasons + shared.state.reason;
  counts[1] = std::int32_t(shared.state.iterations);
  counts[2] = std::int32_t(shared.found.usable);
  counts[3] = std::int32_t(shared.found.consistent);
  batch.success[b] = success ? 1 : 0;
}

// Problem b of the batch. `shared` is uninitialised memory that all threads of a part of the group see.
template <class Group>
PYLOC_HD inline void refine_problem(const Group& group, const GncBatch& batch, std::int64_t b,
                                    GncShared& shared) {
  if (group.leads()) {
    bind_problem(batch, b, shared.view);
    shared.pose = load_pose<double>(batch.start + 12 * b);
    shared.levels = clean_start(shared.pose) ? 1 : 0;
    shared.view.origin = frame_origin(shared.pose);
    shared.pose.t = transform(shared.pose, shared.view.origin);
    shared.state = gnc_begin();
    shared.state.reason = kGncNotRun;
    shared.energy = 0.0;
    shared.sigmas[0] = batch.options.sigma_min;
  }
  group.sync();
  const bool good = shared.levels != 0;
  prepare_maps(group, shared.view);
  group.sync();
  double usable[1] = {0.0};
  for_owned(group, shared.view, [&](std::int64_t n) { usable[0] += is_usable(shared.view, n) ? 1.0 : 0.0; });
  const bool enough = group.sum(usable)[0] >= double(kMinUsable);
  if (good && enough) optimise(group, shared, batch.options);
  judge(group, shared, batch.inlier);
  bool determined = false;
  if (good && shared.found.success)
    determined = measure_covariance(group, shared, shared.sigmas[shared.state.level]);
  const int verdict = good ? gnc_verdict(shared.view.count, shared.found, determined) : kGncBadStart;
  if (group.rank() == 0) write_result(batch, b, shared, verdict);
}

PYLOC_NAMESPACE_END
