// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Many refinements at once: what goes in, what comes out, and the memory they need in between. Plain data
// that a launcher fills and a kernel takes by value; everything lies where the kernel runs.
#pragma once

#include "pyloc/camera.h"
#include "pyloc/consensus.h"
#include "pyloc/gnc.h"
#include "pyloc/gnc_index.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

// How a refinement ended, in one number: verdict * kGncReasons + GncReason.
constexpr int kGncReasons = 5;
enum GncVerdict : int {
  kGncFound = 0,
  kGncNoPoints = 1,
  kGncFewUsable = 2,     // fewer than kMinUsable usable maps
  kGncChance = 3,        // pyloc/consensus.h
  kGncUndetermined = 4,  // the maps do not fix all six degrees of freedom
  kGncBadStart = 5       // not a rotation, or not finite
};

PYLOC_HD inline int gnc_verdict(std::int64_t count, const Consensus& found, bool determined) {
  if (count == 0) return kGncNoPoints;
  if (found.usable < kMinUsable) return kGncFewUsable;
  if (!found.success) return kGncChance;
  return determined ? kGncFound : kGncUndetermined;
}

struct GncBatch {
  LossMapsView maps;                // N maps; problem b has maps problem_ptr[b] .. problem_ptr[b + 1] - 1
  std::int64_t problems;            // B
  const std::int64_t* problem_ptr;  // (B + 1); null: one problem
  const double* points;             // (N, 3)
  const double* cameras;            // (B, 13): pyloc_core.camera.camera_native_args; null: `camera` for all
  Camera<double> camera;
  const double* start;  // (B, 12)
  GncOptions options;   // published must be 0

  double* cam_from_world;  // (B, 12)
  double* scores;          // (B, 3): cost (Eq. 4.6), gain, energy
  double* covariance;      // (B, 36), infinite without success
  std::int32_t* counts;    // (B, 4): status, iterations, usable, consistent
  std::uint8_t* success;   // (B)
  double* inlier;          // (N): 1 - exp(-gain)

  void* workspace;  // gnc_workspace_bytes, aligned to 16 bytes
};

// The workspace: per map the energies at the pose and at the trial, sums and moments of entries, peak gain
// and share of high entries; then the index of rows.
constexpr std::int64_t kGncBytesPerMap = 2 * 8 + 6 * 4 + 2 * 4;
PYLOC_HD inline std::int64_t gnc_workspace_bytes(std::int64_t entries, std::int64_t maps) {
  return (maps * kGncBytesPerMap + 15) / 16 * 16 + index_capacity(entries, maps) * 2;
}

// One problem as the group that solves it sees it. Maps are counted from the batch's first.
struct GncView {
  const LossMapsView* maps;
  std::int64_t first, count;
  const double* points;
  Camera<double> camera;
  Vec3<double> origin;   // of the frame that the optimisation runs in
  double* energies[2];   // (N)
  MapSums<float>* sums;  // (N)
  MapMoments<float>* moments;
  float *peak, *share;
  std::int16_t* first_rows;
};

// Offsets come from the caller's device and are not looked at before: whatever they are, no map outside
// [0, N) is touched.
PYLOC_HD inline void bind_problem(const GncBatch& batch, std::int64_t b, GncView& view) {
  const std::int64_t N = batch.maps.count;
  const auto inside = [N](std::int64_t n) { return n < 0 ? std::int64_t(0) : n > N ? N : n; };
  view.maps = &batch.maps;
  view.first = batch.problem_ptr ? inside(batch.problem_ptr[b]) : 0;
  view.count = (batch.problem_ptr ? inside(batch.problem_ptr[b + 1]) : N) - view.first;
  if (view.count < 0) view.count = 0;
  view.points = batch.points;
  view.camera = batch.cameras ? load_camera(batch.cameras + 13 * b) : batch.camera;
  char* at = static_cast<char*>(batch.workspace);
  view.energies[0] = reinterpret_cast<double*>(at);
  view.energies[1] = view.energies[0] + N;
  view.sums = reinterpret_cast<MapSums<float>*>(view.energies[1] + N);
  view.moments = reinterpret_cast<MapMoments<float>*>(view.sums + N);
  view.peak = reinterpret_cast<float*>(view.moments + N);
  view.share = view.peak + N;
  view.first_rows = reinterpret_cast<std::int16_t*>(at + (N * kGncBytesPerMap + 15) / 16 * 16);
}

// The start with an exactly orthonormal rotation: the polar factor by Newton's iteration, whose error squares
// in every step (1e-3, the most that is taken, to 1e-16 in four). False: no rotation, or not finite.
PYLOC_HD inline bool clean_start(Pose<double>& pose) {
  const Vec3<double> sum = transform(pose, Vec3<double>{1.0, 1.0, 1.0});
  if (!isfinite_(sum.x) || !isfinite_(sum.y) || !isfinite_(sum.z)) return false;
  for (int step = 0; step < 4; ++step) {
    const Mat3<double> RtR = transpose(pose.R) * pose.R;
    Mat3<double> half;
    for (int k = 0; k < 9; ++k) {
      const double identity = k % 4 == 0 ? 1.0 : 0.0;
      if (!(abs_(RtR.m[k] - identity) <= 1e-3)) return false;
      half.m[k] = 1.5 * identity - 0.5 * RtR.m[k];
    }
    pose.R = pose.R * half;
  }
  const double* m = pose.R.m;
  return dot(Vec3<double>{m[0], m[1], m[2]}, cross(Vec3<double>{m[3], m[4], m[5]}, {m[6], m[7], m[8]})) > 0.0;
}

PYLOC_NAMESPACE_END
