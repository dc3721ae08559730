// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// estimate_pose for a batch of problems on a GPU: what goes in, what comes out, the memory in between.
//
// Method   The loop of csrc/cpu/estimate_pose.cpp, cut into phases that a host launches one after the other
//          without ever waiting: evidence, order and setup of the maps; then rounds of hypotheses, scores
//          and collection; then the finish. How often a problem needs a round is known on the device
//          only: rounds are launched up to the limit of the adaptive stop, and those that a finished problem
//          does not need return at once.
// Contract The same triplets, pools and stop as on the CPU. Float32 scores only decide which hypotheses are
//          scored again in float64; those sums run in another order than the CPU's and differ in their last
//          bits. So the result is the CPU's unless the two best hypotheses agree to about 1e-13.
// Memory   A workspace that the caller owns, of a size that depends on shapes alone. The host cannot see the
//          values of problem_ptr: they are clamped, so that nonsense gives nonsense and not a bad access.
//          The maps are trusted to be what LossMaps promises.
#pragma once

#include "pyloc/block_group.h"
#include "pyloc/camera.h"
#include "pyloc/consensus.h"
#include "pyloc/msac.h"
#include "pyloc/pose_scoring.h"

PYLOC_NAMESPACE_BEGIN

constexpr int kTileTriplets = 256;  // triplets whose solutions are scored together
constexpr int kTileSlots = kTileTriplets * kMsacRoots;

struct MsacInput {
  LossMapsView maps;                       // N maps of all problems
  const double* points;                    // (N, 3) world
  const double* cameras;                   // (B, 13): kind, fx, fy, cx, cy, d; null: `camera` for all
  const std::int64_t* problem_ptr;         // (B + 1); null: one problem
  const double* initial;                   // (B, K, 3, 4) or null
  std::int64_t num_problems, num_initial;  // B, K
  std::int64_t iterations;                 // triplets; <= 0: adaptive
  double confidence, top_fraction;
  std::uint64_t seed;
  Camera<double> camera;
};

struct MsacOutput {
  double* cam_from_world;        // (B, 3, 4)
  std::int32_t* status;          // (B): 0 found, 1 too few usable maps, 2 no pose, 3 without support
  double *cost, *gain;           // (B): Eq. 4.6 over all maps of the problem, nats
  std::int32_t* iterations;      // (B)
  std::int32_t* num_usable;      // (B)
  std::int32_t* num_consistent;  // (B)
  double* inlier_probability;    // (N)
};

struct MsacState {
  WorldFrame frame;
  double chance;                         // mean probability that a usable map agrees with a wrong pose
  double tolerance;                      // of float32 scores
  std::int64_t done, wanted, round_end;  // triplets
  int num_usable, num_sampled;
  int finished;
  MsacPool<kMsacFinalists> pool;
};

// Problem-wise arrays of maps hold those of problem b from its first map on; [k] is its k-th most peaked map.
struct MsacWorkspace {
  MsacState* state;     // (B)
  float* key;           // (N): peak gain of usable maps, -1 for others
  float* peak;          // (N)
  float* share;         // (N): a_n of consensus.h
  std::int16_t* best;   // (N, 2): best cell
  std::int32_t* order;  // (N): [k] -> n - first map
  std::int16_t* cell;   // (N, 2): [k] -> best cell
  double* bearing;      // (N, 3): [k]
  float* point;         // (N, 3): [k], in the frame
  double* final_gain;   // (finalists, N)
  // Of a round, for the problems of a pass (P), tiles (T) and chunks of maps (C).
  double* pose;             // (P, T, slots, 12)
  ScoringPose* row;         // (P, T, slots)
  std::int32_t* slot;       // (P, T, slots): slots that hold a solution, in order
  std::int32_t* count;      // (P, T): how many
  float* partial;           // (P, T, C, slots)
  float* score;             // (P, T, slots)
  std::int32_t* candidate;  // (P, T * slots)
};

// How the work is cut, from shapes alone.
struct MsacPlan {
  std::int64_t problems;  // of a pass
  int tiles, chunks;
  bool dense;  // maps are made dense in shared memory; otherwise their sorted entries are searched
};

struct MapRange {
  std::int64_t begin;
  int count;
};
PYLOC_HD inline MapRange maps_of(const MsacInput& in, std::int64_t b) {
  const std::int64_t N = in.maps.count;
  if (!in.problem_ptr) return {0, int(N)};
  std::int64_t begin = in.problem_ptr[b], end = in.problem_ptr[b + 1];
  begin = begin < 0 ? 0 : begin > N ? N : begin;
  end = end < begin ? begin : end > N ? N : end;
  return {begin, int(end - begin)};
}

// The problem that map n belongs to; -1: none.
PYLOC_HD inline std::int64_t problem_of(const MsacInput& in, std::int64_t n) {
  if (!in.problem_ptr) return in.num_problems > 0 ? 0 : -1;
  std::int64_t low = 0, high = in.num_problems;  // the last b whose first map is not after n
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (in.problem_ptr[middle] <= n ? low : high) = middle;
  }
  if (in.num_problems == 0) return -1;
  const MapRange maps = maps_of(in, low);
  return n >= maps.begin && n - maps.begin < maps.count ? low : -1;
}

PYLOC_HD inline Camera<double> camera_of(const MsacInput& in, std::int64_t b) {
  return in.cameras ? load_camera(in.cameras + 13 * b) : in.camera;
}

PYLOC_HD PYLOC_INLINE Vec3<double> point_of(const MsacInput& in, std::int64_t n) {
  const double* X = in.points + 3 * n;
  return {X[0], X[1], X[2]};
}

// Centre and half extent of point(0) .. point(count - 1); points that are not finite are left out.
template <class Group, class Point>
PYLOC_HD inline WorldFrame frame_of_points(const Group& g, double* scratch, const Point& point, int count) {
  const auto is_finite = [](const Vec3<double>& X) {
    return isfinite_(X.x) && isfinite_(X.y) && isfinite_(X.z);
  };
  WorldFrame frame;
  Vec3<double> sum{0.0, 0.0, 0.0};
  for (int k = g.rank(); k < count; k += Group::kSize) {
    const Vec3<double> X = point(k);
    if (is_finite(X)) sum = sum + X * (1.0 / double(count));
  }
  frame.centre.x = group_sum(g, scratch, sum.x);
  frame.centre.y = group_sum(g, scratch, sum.y);
  frame.centre.z = group_sum(g, scratch, sum.z);
  double extent = 0.0;
  for (int k = g.rank(); k < count; k += Group::kSize) {
    const Vec3<double> X = point(k), d = X - frame.centre;
    if (is_finite(X)) extent = max_(extent, max_(abs_(d.x), max_(abs_(d.y), abs_(d.z))));
  }
  extent = group_max(g, scratch, extent);
  frame.scale = extent > 1e-300 && isfinite_(extent) ? 1.0 / extent : 1.0;
  return frame;
}

// Hands out the arrays of a workspace; where there is no memory it only counts the bytes.
struct WorkspaceCursor {
  char* memory;
  std::size_t used = 0;

  template <class T>
  void place(T*& array, std::int64_t count) {
    if (memory) array = reinterpret_cast<T*>(memory + used);
    used += (std::size_t(count) * sizeof(T) + 255) / 256 * 256;
  }
};

// Eq. 4.6 of one map in float64.
PYLOC_HD inline double exact_gain(const MsacInput& in, const Camera<double>& cam,
                                  const Pose<double>& cam_from_world, std::int64_t n) {
  Vec2<double> p;
  if (!project(cam, transform(cam_from_world, point_of(in, n)), p)) return 0.0;
  return bilinear_gain<double>(in.maps, n, p.x, p.y);
}

PYLOC_NAMESPACE_END
