// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/refine_pose.h"

#include "cpu/gnc_covariance.h"
#include "cpu/gnc_pass.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// Everything a refinement needs, in one place so that one failed allocation is seen at once.
struct Workspace {
  explicit Workspace(const LossMapsView& maps)
      : chunks((maps.count + kMapsPerChunk - 1) / kMapsPerChunk),
        points(std::size_t(3 * chunks * kMapsPerChunk)),
        energies(std::size_t(2 * chunks * kMapsPerChunk)),
        evidence(std::size_t(2 * maps.count)),
        first_rows(std::size_t(index_capacity(maps.row_ptr[maps.count], maps.count))),
        partial(std::size_t(chunks)) {}
  explicit operator bool() const { return points && energies && evidence && first_rows && partial; }

  std::int64_t chunks;
  Scratch<double> points, energies;
  Scratch<float> evidence;
  Scratch<std::int16_t> first_rows;
  Scratch<PassSums> partial;
};

GncProblem bind(const LossMapsView& maps, const Camera<double>& camera, Workspace& w, int num_threads,
                bool published) {
  const std::int64_t padded = w.chunks * kMapsPerChunk;
  double* X = w.points.data();
  return {&maps,
          camera,
          w.chunks,
          X,
          X + padded,
          X + 2 * padded,
          w.first_rows.data(),
          w.evidence.data(),
          w.evidence.data() + maps.count,
          w.partial.data(),
          num_threads,
          published};
}

// Points as a structure of arrays (padding: behind every camera's reach, weight 0), rows of blocks, evidence.
void prepare(const GncProblem& problem, const double* points, const Vec3<double>& origin) {
  const LossMapsView& maps = *problem.maps;
  const double area = double(maps.window_w) * double(maps.window_h);
  runtime::parallel_for(problem.chunks, problem.num_threads, [&](std::int64_t chunk) {
    for (std::int64_t n = chunk * kMapsPerChunk; n < (chunk + 1) * kMapsPerChunk; ++n) {
      const bool real = n < maps.count;
      problem.X[n] = real ? points[3 * n] - origin.x : 0.0;
      problem.Y[n] = real ? points[3 * n + 1] - origin.y : 0.0;
      problem.Z[n] = real ? points[3 * n + 2] - origin.z : 0.0;
      if (!real) continue;
      index_blocks(maps, n, problem.first_rows);
      std::int64_t high = 0;
      const std::int64_t begin = maps.row_ptr[n];
      peak_and_count(maps.gain + begin, maps.row_ptr[n + 1] - begin, kConsistentShare, problem.peak[n], high);
      problem.share[n] = area > 0.0 ? float(double(high) / area) : 1.0f;
    }
  });
}

// The loop of gnc.h. Leaves the pose, the last sigma and the energy there in `result`.
Pose<double> optimise(const GncProblem& problem, Pose<double> pose, const GncOptions& options,
                      double* energies, double* trial_energies, double& sigma, RefinePoseResult* result) {
  double sigmas[kMaxSigmas];
  const int levels = gnc_schedule(options.sigma_max, options.sigma_min, options.published != 0, sigmas);
  GncState state = gnc_begin();
  PassSums at = run_pass(problem, pose, sigmas[0], nullptr, energies);
  result->passes = 1;
  while (!state.done) {
    double d[6], predicted = 0.0;
    if (at.energy == 0.0) {
      state.reason = kGncNoSupport;
      break;
    }
    GncAction action;
    if (damped_step(at.A, at.b, state.lambda, options.published != 0, d, &predicted)) {
      const Pose<double> trial = left_update(pose, d);
      const PassSums there = run_pass(problem, trial, sigmas[state.level], energies, trial_energies);
      ++result->passes;
      action = gnc_after_trial(state, options, levels, at.energy, there.energy, there.decrease,
                               there.increase, predicted);
      if (action == kGncAccept || action == kGncAdvance) {
        pose = trial;
        at = there;
        double* swap = energies;
        energies = trial_energies;
        trial_energies = swap;
      }
    } else {  // singular, or too large to count: damping may help
      ++state.iterations;
      action = gnc_rejected(state, options, levels, HUGE_VAL);
      if (!state.done && state.iterations >= options.max_iterations)
        state.done = 1, state.reason = kGncMaxIterations;
    }
    if (state.done || (action != kGncAdvance && action != kGncSkip)) continue;
    // The energies of the last sigma cannot be compared with those of the next: evaluate again. The
    // published program compares them all the same.
    double* into = options.published ? trial_energies : energies;
    const double stale = at.energy;
    at = run_pass(problem, pose, sigmas[state.level], nullptr, into);
    ++result->passes;
    if (options.published) at.energy = stale;
  }
  sigma = sigmas[state.level];
  result->energy = at.energy;
  result->iterations = state.iterations;
  result->reason = state.reason;
  return pose;
}

bool usable(const GncProblem& problem, std::int64_t n) {
  const float* flat = problem.maps->flat_gain;
  return problem.peak[n] - (flat ? flat[n] : 0.0f) > kUsableGain;
}

std::int64_t count_usable(const GncProblem& problem) {
  std::int64_t count = 0;
  for (std::int64_t n = 0; n < problem.maps->count; ++n) count += usable(problem, n) ? 1 : 0;
  return count;
}

// Bilinear gains at the pose (Eq. 4.6), their sum, and the verdict.
void judge(const GncProblem& problem, const Pose<double>& pose, double* gains, RefinePoseResult* result) {
  const LossMapsView& maps = *problem.maps;
  runtime::parallel_for(problem.chunks, problem.num_threads, [&](std::int64_t chunk) {
    const std::int64_t end = (chunk + 1) * kMapsPerChunk;
    for (std::int64_t n = chunk * kMapsPerChunk; n < end && n < maps.count; ++n) {
      Vec2<double> p;
      const Vec3<double> X{problem.X[n], problem.Y[n], problem.Z[n]};
      gains[n] = project(problem.camera, transform(pose, X), p) ? bilinear_gain(maps, n, p.x, p.y) : 0.0;
    }
  });
  std::int64_t count = 0, consistent = 0;
  double share = 0.0;
  result->gain = 0.0;
  for (std::int64_t n = 0; n < maps.count; ++n) {
    result->gain += gains[n];
    if (!usable(problem, n)) continue;
    ++count;
    share += problem.share[n];
    consistent += is_consistent(gains[n], problem.peak[n]) ? 1 : 0;
  }
  result->consensus = consensus(count, consistent, count > 0 ? share / double(count) : 0.0);
}

bool refine(const LossMapsView& maps, const double* points, const Camera<double>& camera, const double* start,
            const GncOptions& options, int num_threads, double* gains, RefinePoseResult* result) {
  Workspace w(maps);
  if (!w) return false;
  const bool published = options.published != 0;
  const GncProblem problem = bind(maps, camera, w, num_threads, published);
  Pose<double> pose = load_pose<double>(start);
  // The published damping is tied to the world's origin.
  const Vec3<double> origin = published ? Vec3<double>{0.0, 0.0, 0.0} : frame_origin(pose);
  prepare(problem, points, origin);
  pose.t = transform(pose, origin);
  double* energies = w.energies.data();
  double sigma = options.sigma_min;
  result->reason = kGncNotRun;
  if (published || count_usable(problem) >= kMinUsable)
    pose = optimise(problem, pose, options, energies, energies + w.chunks * kMapsPerChunk, sigma, result);
  judge(problem, pose, gains, result);
  if (!pose_covariance(problem, pose, sigma, result->covariance, &result->dispersion)) return false;
  const Vec3<double> shift = pose.R * origin;
  move_covariance(shift, result->covariance);
  pose.t = pose.t - shift;
  store_pose(pose, result->cam_from_world);
  if (result->iterations == 0)  // not even rounding changes what was not refined
    std::memcpy(result->cam_from_world, start, sizeof(result->cam_from_world));
  return true;
}

bool assemble(const LossMapsView& maps, const double* points, const Camera<double>& camera,
              const double* pose, double sigma, int num_threads, std::int64_t repeats, double* sums) {
  Workspace w(maps);
  if (!w) return false;
  const GncProblem problem = bind(maps, camera, w, num_threads, false);
  prepare(problem, points, Vec3<double>{0.0, 0.0, 0.0});
  const Pose<double> cam_from_world = load_pose<double>(pose);
  for (std::int64_t r = 0; r < repeats; ++r) {
    const PassSums s = run_pass(problem, cam_from_world, sigma, nullptr, w.energies.data());
    sums[0] = s.energy;
    for (int k = 0; k < kNormal; ++k) sums[1 + k] = s.A[k];
    for (int k = 0; k < 6; ++k) sums[1 + kNormal + k] = s.b[k];
  }
  return true;
}

}  // namespace

const RefinePoseKernels& refine_pose_kernels() {
  static constexpr RefinePoseKernels kernels{&refine, &assemble};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
