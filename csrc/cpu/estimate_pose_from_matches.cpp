// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/estimate_pose_from_matches.h"

#include "cpu/hypothesis_round.h"
#include "cpu/match_set.h"
#include "pyloc/consensus.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr int kPool = 4;        // hypotheses that local optimisation may start from
constexpr int kLocalSteps = 5;  // of Levenberg-Marquardt per start (Chum et al. 2003: a few suffice)
constexpr int kFinalSteps = 50;
constexpr std::int64_t kChunk = 64;  // hypotheses per task

LevenbergOptions<double> steps(int count, const MatchSet& set) {
  LevenbergOptions<double> options{};
  options.max_iterations = count;
  options.tolerance = 1e-10;
  options.cost_floor = 1e-20 * set.limit2() * set.total_weight();
  return options;
}

// Consensus over centred poses.
class MatchSearch {
 public:
  MatchSearch(const MatchPoseProblem& problem, const MatchPoseOptions& options, const std::int64_t* picked,
              const MatchSet& set)
      : problem_(problem),
        options_(options),
        picked_(picked),
        set_(set),
        bearings_(std::size_t(set.count())) {}

  bool run(MatchPoseResult* result);
  const MsacPool<1>& best() const { return best_; }

 private:
  const double* pixel(int k) const { return problem_.points2d + 2 * picked_[k]; }
  void insert(const Pose<double>& pose, std::int64_t number) {
    pool_.insert({set_.exact_gain(pose), 0.0, number, pose});
  }
  void add_initial();
  void solve(std::int64_t first, std::int64_t count);
  void score();
  void collect();
  void optimise(std::int64_t since);

  const MatchPoseProblem& problem_;
  const MatchPoseOptions& options_;
  const std::int64_t* picked_;
  const MatchSet& set_;
  Scratch<Vec3<double>> bearings_;
  HypothesisRound round_;
  MsacPool<kPool> pool_;  // as P3P gave them
  MsacPool<1> best_;      // after local optimisation
};

void MatchSearch::add_initial() {
  for (std::int64_t k = 0; k < problem_.num_initial; ++k) {
    const Pose<double> pose = load_pose<double>(problem_.initial + 12 * k);
    insert(centered_pose(pose, set_.center()), k - kMsacRoots * problem_.num_initial);
  }
}

void MatchSearch::solve(std::int64_t first, std::int64_t count) {
  const auto point = [&](int k) {
    return Vec3<double>{set_.row(MatchSet::kX)[k], set_.row(MatchSet::kY)[k], set_.row(MatchSet::kZ)[k]};
  };
  const auto same_pixel = [&](int a, int b) {
    return pixel(a)[0] == pixel(b)[0] && pixel(a)[1] == pixel(b)[1];
  };
  round_.draw(options_.seed, first, count, int(set_.count()), bearings_.data(), point, same_pixel);
}

// Hypotheses that cannot enter the pool any more are given up; the bound is that of the round's start.
void MatchSearch::score() {
  const double threshold = pool_.threshold() - set_.tolerance();
  const std::int64_t chunks = (round_.count + kChunk - 1) / kChunk;
  runtime::parallel_for(chunks, options_.num_threads, [&](std::int64_t c) {
    const std::int64_t end = (c + 1) * kChunk < round_.count ? (c + 1) * kChunk : round_.count;
    for (std::int64_t i = c * kChunk; i < end; ++i)
      round_.gain[i] = set_.quick_gain(round_.pose[i], threshold);
  });
}

void MatchSearch::collect() {
  const double round_bound = double(kth_largest<kPool>(round_.gain.data(), round_.count)) - set_.tolerance();
  for (int i = 0; i < round_.count; ++i) {
    const double bound = max_(pool_.threshold(), round_bound) - set_.tolerance();
    if (isfinite_(round_.gain[i]) && double(round_.gain[i]) >= bound)
      insert(round_.pose[i], round_.number[i]);
  }
}

// A few least-squares steps from every hypothesis of the pool that is newer than `since`.
void MatchSearch::optimise(std::int64_t since) {
  for (int k = 0; k < pool_.count; ++k) {
    MsacHypothesis h = pool_.entry[k];
    if (h.number < since) continue;
    NormalEquations<double> equations;
    levenberg(set_, steps(kLocalSteps, set_), h.cam_from_world, equations);
    h.gain = set_.exact_gain(h.cam_from_world);
    best_.insert(h.gain >= pool_.entry[k].gain ? h : pool_.entry[k]);
  }
}

bool MatchSearch::run(MatchPoseResult* result) {
  if (!bearings_ || !round_.ok()) return false;
  for (int k = 0; k < int(set_.count()); ++k)
    bearings_[k] = unproject(problem_.camera, Vec2<double>{pixel(k)[0], pixel(k)[1]});
  add_initial();
  optimise(-kMsacRoots * problem_.num_initial);
  std::int64_t done = 0, wanted = options_.iterations > 0 ? options_.iterations : kMsacMinIterations;
  while (done < wanted) {
    const std::int64_t count = round_size(done, wanted);
    const double start = seconds_now();
    solve(done, count);
    const double solved = seconds_now();
    score();
    collect();
    const double scored = seconds_now();
    optimise(kMsacRoots * done);
    done += count;
    result->scored += round_.count;
    if (options_.iterations <= 0) {
      MatchSet::Inliers inliers{};
      if (best_.count) set_.exact_gain(best_.entry[0].cam_from_world, &inliers);
      wanted = required_triplets(double(inliers.count) / double(set_.count()), options_.confidence);
    }
    result->seconds[1] += solved - start;
    result->seconds[2] += scored - solved;
    result->seconds[3] += seconds_now() - scored;
  }
  result->iterations = done;
  return true;
}

// Probability that a wrong pose brings a point within T of its measurement. The worst one moves all points
// to one place, where a square of side 2 T holds this share of the measurements' bounding box.
double chance_inlier(const MatchSet& set) {
  double chance = 1.0;
  for (int k = 0; k < 2; ++k) {
    double low = HUGE_VAL, high = -HUGE_VAL;
    for (std::int64_t i = 0; i < set.count(); ++i) {
      low = min_(low, set.row(MatchSet::kU + k)[i]);
      high = max_(high, set.row(MatchSet::kU + k)[i]);
    }
    chance *= min_(2.0 * sqrt_(set.limit2()) / max_(high - low, 1e-300), 1.0);
  }
  return chance;
}

// sigma^2 (sum w J^T J)^-1 over the inliers, sigma^2 their mean squared residual per degree of freedom;
// without redundancy the threshold stands in for the noise.
bool covariance(const MatchSet& set, const NormalEquations<double>& equations, double gain,
                const MatchSet::Inliers& inliers, double out[36]) {
  if (!observed_inverse(equations.A, out)) return false;
  const double squares = max_(inliers.weight * set.limit2() - gain, 0.0);
  const double freedom = 2.0 * double(inliers.count) - 6.0;
  // Weights are inverse variances up to a factor, which sigma^2 takes up.
  const double sigma2 = freedom >= 1.0 ? squares / freedom : set.limit2();
  for (int i = 0; i < 36; ++i) out[i] *= sigma2;
  return true;
}

bool finish(const MatchSet& set, const std::int64_t* picked, const MsacHypothesis& best,
            MatchPoseResult* result) {
  Scratch<double> share(std::size_t(set.count()));
  if (!share) return false;
  Pose<double> pose = best.cam_from_world;
  NormalEquations<double> equations;
  levenberg(set, steps(kFinalSteps, set), pose, equations);
  MatchSet::Inliers inliers{};
  result->gain = set.exact_gain(pose, &inliers, share.data());
  result->num_consistent = inliers.count;
  result->cost = set.total_weight() * set.limit2() - result->gain;
  for (std::int64_t i = 0; i < set.count(); ++i) result->inlier_probability[picked[i]] = share[i];
  result->hypothesis = best.number;
  result->observed = covariance(set, equations, result->gain, inliers, result->covariance);
  if (result->observed) uncenter_covariance(pose.R * set.center(), result->covariance);
  store_pose(world_pose(pose, set.center()), result->cam_from_world);
  const Consensus found = consensus(set.count(), result->num_consistent, chance_inlier(set));
  result->status = !found.success      ? kMatchPoseWithoutSupport
                   : !result->observed ? kMatchPoseNotFixed
                                       : kMatchPoseFound;
  return true;
}

void run(const MatchPoseProblem& problem, const MatchPoseOptions& options, MatchPoseResult* result) {
  const double start = seconds_now();
  result->status = kMatchPoseOutOfMemory;
  Scratch<std::int64_t> picked(std::size_t(problem.count));
  if (!picked) return;
  std::int64_t usable = 0;
  for (std::int64_t n = 0; n < problem.count; ++n)
    if (!problem.weights || problem.weights[n] > 0.0) picked[usable++] = n;
  result->num_usable = usable;
  if (usable < kMinUsable) {
    result->status = kTooFewMatches;
    return;
  }
  const MatchSet set(problem.points2d, problem.points3d, problem.weights, picked.data(), usable,
                     problem.camera, options.max_error);
  if (!set.ok()) return;
  result->seconds[0] = seconds_now() - start;
  MatchSearch search(problem, options, picked.data(), set);
  if (!search.run(result)) return;
  if (search.best().count == 0) {
    result->status = kNoPoseFromMatches;
    return;
  }
  const double searched = seconds_now();
  if (!finish(set, picked.data(), search.best().entry[0], result)) return;
  result->seconds[3] += seconds_now() - searched;
}

int score(const MatchPoseProblem& problem, double max_error, const double* poses, std::int64_t num_poses,
          int single, double* gain) {
  Scratch<std::int64_t> picked(std::size_t(problem.count));
  if (!picked) return kMatchPoseOutOfMemory;
  for (std::int64_t n = 0; n < problem.count; ++n) picked[n] = n;
  const MatchSet set(problem.points2d, problem.points3d, problem.weights, picked.data(), problem.count,
                     problem.camera, max_error);
  if (!set.ok()) return kMatchPoseOutOfMemory;
  for (std::int64_t i = 0; i < num_poses; ++i) {
    const Pose<double> pose = centered_pose(load_pose<double>(poses + 12 * i), set.center());
    gain[i] = single ? double(set.quick_gain(pose, -HUGE_VAL)) : set.exact_gain(pose);
  }
  return kMatchPoseFound;
}

}  // namespace

const MatchPoseKernels& estimate_pose_from_matches_kernels() {
  static constexpr MatchPoseKernels kernels{&run, &score};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
