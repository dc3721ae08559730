// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Covariance of a refined pose (pyloc/pose_covariance.h) over all maps.
#pragma once

#include "cpu/gnc_pass.h"
#include "pyloc/pose_covariance.h"

PYLOC_NAMESPACE_BEGIN

inline void map_terms(const GncProblem& problem, const Pose<double>& pose, double sigma, std::int64_t chunk,
                      double* terms) {
  ChunkGeometry g;
  project_chunk(problem, pose, chunk, sigma, g);
  const double weight = gnc_density(sigma) / (sigma * sigma);
  for (std::int64_t i = 0; i < kMapsPerChunk; ++i) {
    const std::int64_t n = chunk * kMapsPerChunk + i;
    double* out = terms + kMapTerms * n;
    for (int k = 0; k < kMapTerms; ++k) out[k] = 0.0;
    if (n >= problem.maps->count || g.px[i] == kNowhere) continue;
    MapMoments<double> m;
    const EntryWindow w = window_around(*problem.maps, problem.first_rows, n, g.px[i], g.py[i], sigma);
    const MapSums<double> s = map_moments(*problem.maps, w, sigma, m);
    for (int k = 0; k < 12; ++k) out[k] = g.J[k][i];
    map_curvature(s, m, sigma, out + 12);
    out[15] = weight * s.x;
    out[16] = weight * s.y;
  }
}

// False: out of memory. The matrix is infinite when Lambda cannot be inverted.
inline bool pose_covariance(const GncProblem& problem, const Pose<double>& pose, double sigma,
                            double covariance[36], double* dispersion) {
  Scratch<double> terms(std::size_t(problem.chunks * kMapsPerChunk * kMapTerms));
  if (!terms) return false;
  runtime::parallel_for(problem.chunks, problem.num_threads,
                        [&](std::int64_t chunk) { map_terms(problem, pose, sigma, chunk, terms.data()); });
  double packed[kNormal] = {}, C[36];
  for (std::int64_t n = 0; n < problem.maps->count; ++n) {
    const double* t = terms.data() + kMapTerms * n;
    if (t[12] > 0.0 || t[14] > 0.0) add_normal(packed, t, t[12], t[13], t[14]);
  }
  *dispersion = HUGE_VAL;
  for (int k = 0; k < 36; ++k) covariance[k] = HUGE_VAL;
  if (!invert_curvature(packed, C)) return true;
  double moves = 0.0;
  for (std::int64_t n = 0; n < problem.maps->count; ++n)
    moves += leave_out_move(terms.data() + kMapTerms * n, C);
  if (!isfinite_(moves)) return true;
  const double c = max_(moves / 6.0, kMinDispersion);
  *dispersion = c;
  for (int k = 0; k < 36; ++k) covariance[k] = c * C[k];
  return true;
}

PYLOC_NAMESPACE_END
