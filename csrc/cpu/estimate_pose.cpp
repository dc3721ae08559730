// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/estimate_pose.h"

#include "cpu/hypothesis_round.h"
#include "cpu/map_selection.h"
#include "cpu/scoring_set.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr int kChunk = 512;  // poses scored together by one thread

class MsacSearch {
 public:
  MsacSearch(const EstimatePoseProblem& problem, const EstimatePoseOptions& options,
             const MapSelection& selection, const ScoringSet& set)
      : problem_(problem),
        options_(options),
        selection_(selection),
        set_(set),
        camera_(convert<float>(problem.camera)),
        tolerance_(set.tolerance(problem.maps)),
        exact_(problem.maps, problem.points, problem.camera, selection.peak.data()),
        bearings_(std::size_t(selection.num_sampled)),
        candidates_(kMsacRoots * kMsacLargestRound) {}

  bool run(EstimatePoseResult* result);
  const MsacPool<kMsacFinalists>& pool() const { return pool_; }

 private:
  void rescore(MsacHypothesis* hypotheses, int count) const {
    exact_.run(selection_.usable.data(), selection_.num_sampled, hypotheses, count);
  }
  const std::int16_t* cell(int k) const {
    return problem_.maps.xy + 2 * selection_.entry[selection_.usable[k]];
  }
  void unproject_peaks();
  void add_initial();
  void solve(std::int64_t first, std::int64_t count);
  bool score();
  bool score_chunk(int begin, int end, double threshold);
  void collect();

  const EstimatePoseProblem& problem_;
  const EstimatePoseOptions& options_;
  const MapSelection& selection_;
  const ScoringSet& set_;
  Camera<float> camera_;
  double tolerance_;
  ExactScores exact_;
  Scratch<Vec3<double>> bearings_;
  Scratch<MsacHypothesis> candidates_;
  HypothesisRound round_;
  MsacPool<kMsacFinalists> pool_;
};

void MsacSearch::unproject_peaks() {
  for (int k = 0; k < selection_.num_sampled; ++k)
    bearings_[k] = unproject(problem_.camera, Vec2<double>{double(cell(k)[0]), double(cell(k)[1])});
}

void MsacSearch::add_initial() {
  for (std::int64_t k = 0; k < problem_.num_initial; ++k) {
    MsacHypothesis h{0.0, 0.0, k - kMsacRoots * problem_.num_initial,
                     load_pose<double>(problem_.initial + 12 * k)};
    rescore(&h, 1);
    pool_.insert(h);
  }
}

// P3P on the best cells of `count` triplets (Eq. 4.8).
void MsacSearch::solve(std::int64_t first, std::int64_t count) {
  const auto point = [&](int k) {
    const double* X = problem_.points + 3 * std::int64_t(selection_.usable[k]);
    return Vec3<double>{X[0], X[1], X[2]};
  };
  const auto same_cell = [&](int a, int b) { return cell(a)[0] == cell(b)[0] && cell(a)[1] == cell(b)[1]; };
  round_.draw(options_.seed, first, count, selection_.num_sampled, bearings_.data(), point, same_cell);
}

bool MsacSearch::score_chunk(int begin, int end, double threshold) {
  if (!set_.dense()) {
    for (int i = begin; i < end; ++i) {
      MsacHypothesis h{0.0, 0.0, 0, round_.pose[i]};
      rescore(&h, 1);
      round_.gain[i] = float(h.gain);
    }
    return true;
  }
  return set_.score_poses(camera_, round_.pose.data() + begin, end - begin, threshold,
                          round_.gain.data() + begin);
}

bool MsacSearch::score() {
  const double threshold = pool_.threshold() - tolerance_;
  const int chunks = (round_.count + kChunk - 1) / kChunk;
  Scratch<std::uint8_t> done(std::size_t(chunks) + 1);
  if (!done) return false;
  runtime::parallel_for(chunks, options_.num_threads, [&](std::int64_t c) {
    const int begin = int(c) * kChunk, end = begin + kChunk < round_.count ? begin + kChunk : round_.count;
    done[c] = score_chunk(begin, end, threshold);
  });
  for (int c = 0; c < chunks; ++c)
    if (!done[c]) return false;
  return true;
}

// Whatever may belong to the finalists is scored again in float64, which alone decides.
void MsacSearch::collect() {
  const double round_bound =
      double(kth_largest<kMsacFinalists>(round_.gain.data(), round_.count)) - tolerance_;
  const double bound = max_(pool_.threshold(), round_bound) - tolerance_;
  int count = 0;
  for (int i = 0; i < round_.count; ++i)
    if (double(round_.gain[i]) >= bound && isfinite_(round_.gain[i]))
      candidates_[count++] = {0.0, 0.0, round_.number[i], round_.pose[i]};
  rescore(candidates_.data(), count);
  for (int i = 0; i < count; ++i) pool_.insert(candidates_[i]);
}

bool MsacSearch::run(EstimatePoseResult* result) {
  if (!bearings_ || !candidates_ || !round_.ok()) return false;
  unproject_peaks();
  add_initial();
  std::int64_t done = 0, wanted = options_.iterations > 0 ? options_.iterations : kMsacMinIterations;
  if (selection_.num_sampled < 3) wanted = 0;
  while (done < wanted) {
    const std::int64_t count = round_size(done, wanted);
    double start = seconds_now();
    solve(done, count);
    result->seconds[1] += seconds_now() - start;
    start = seconds_now();
    if (!score()) return false;
    collect();
    done += count;
    result->scored += round_.count;
    if (options_.iterations <= 0) {
      const double support = pool_.count ? pool_.entry[0].support : 0.0;
      wanted = required_triplets(support / double(selection_.num_sampled), options_.confidence);
    }
    result->seconds[2] += seconds_now() - start;
  }
  result->iterations = done;
  return true;
}

// The finalists once more, over all usable maps; ties to the lower number. The gains of all maps at the
// winner's pose come with it.
bool finish(const EstimatePoseProblem& problem, const MapSelection& selection,
            const MsacPool<kMsacFinalists>& pool, EstimatePoseResult* result) {
  const std::int64_t N = problem.maps.count;
  Scratch<double> each(std::size_t(N) * kMsacFinalists);
  if (!each) return false;
  const ExactScores exact(problem.maps, problem.points, problem.camera, selection.peak.data());
  double total[kMsacFinalists] = {0.0};  // over all maps
  MsacHypothesis finalist[kMsacFinalists];
  for (int i = 0; i < pool.count; ++i) {
    finalist[i] = pool.entry[i];
    finalist[i].gain = finalist[i].support = 0.0;
  }
  for (std::int64_t n = 0; n < N; ++n)
    for (int i = 0; i < pool.count; ++i) {
      const double gain = exact.gain(finalist[i].cam_from_world, n);
      each[std::size_t(i * N + n)] = gain;
      total[i] += gain;
      if (!selection.is_usable[n]) continue;
      finalist[i].gain += gain;
      finalist[i].support += is_consistent(gain, selection.peak[n]);
    }
  int best = 0;
  for (int i = 1; i < pool.count; ++i)
    if (precedes(finalist[i], finalist[best])) best = i;
  store_pose(finalist[best].cam_from_world, result->cam_from_world);
  memcpy(result->map_gain, each.data() + best * N, std::size_t(N) * sizeof(double));
  result->hypothesis = finalist[best].number;
  result->gain = total[best];
  result->cost = double(N) * problem.maps.log_cardinality - result->gain;
  result->num_consistent = std::int64_t(finalist[best].support);
  const Consensus found = consensus(selection.num_usable, result->num_consistent, selection.chance);
  result->status = found.success ? kPoseFound : kPoseWithoutSupport;
  return true;
}

void run(const EstimatePoseProblem& problem, const EstimatePoseOptions& options, EstimatePoseResult* result) {
  double start = seconds_now();
  MapSelection selection(std::size_t(problem.maps.count));
  result->status = kPoseOutOfMemory;
  if (!selection.ok() || !selection.run(problem.maps, options.top_fraction)) return;
  result->num_usable = selection.num_usable;
  if (selection.num_usable < kMinUsable) {
    result->status = kTooFewUsableMaps;
    return;
  }
  const ScoringSet set(problem.maps, problem.points, selection.usable.data(), selection.peak.data(),
                       selection.num_sampled);
  if (!set.ok()) return;
  result->seconds[0] = seconds_now() - start;
  MsacSearch search(problem, options, selection, set);
  if (!search.run(result)) return;
  start = seconds_now();
  if (search.pool().count == 0) {
    result->status = kNoPoseFromTriplets;
    return;
  }
  if (!finish(problem, selection, search.pool(), result)) result->status = kPoseOutOfMemory;
  result->seconds[3] = seconds_now() - start;
}

// Problem b as a call of its own.
EstimatePoseProblem problem_of_batch(const EstimatePoseBatch& batch, std::int64_t b) {
  const std::int64_t begin = batch.problem_ptr[b], K = batch.num_initial;
  LossMapsView maps = batch.maps;
  maps.count = batch.problem_ptr[b + 1] - begin;
  maps.row_ptr += begin;
  if (maps.origins) maps.origins += 2 * begin;
  if (maps.flat_gain) maps.flat_gain += begin;
  const double* initial = batch.initial ? batch.initial + 12 * K * b : nullptr;
  return {maps, batch.points + 3 * begin, batch.cameras[batch.num_cameras == 1 ? 0 : b], initial, K};
}

// Without an answer the pose is the first initial one, or the identity. Threads take problems; where there
// are fewer problems than threads, they share each.
void run_batch(const EstimatePoseBatch& batch, const EstimatePoseOptions& options, double* map_gain,
               EstimatePoseResult* results) {
  const int threads = options.num_threads > 0 ? options.num_threads : runtime::default_num_threads();
  const bool many = batch.num_problems >= threads;
  EstimatePoseOptions each = options;
  each.num_threads = many ? 1 : threads;
  runtime::parallel_for(batch.num_problems, many ? threads : 1, [&](std::int64_t b) {
    results[b] = {};
    results[b].map_gain = map_gain + batch.problem_ptr[b];
    const EstimatePoseProblem problem = problem_of_batch(batch, b);
    run(problem, each, results + b);
    const bool none = results[b].status == kTooFewUsableMaps || results[b].status == kNoPoseFromTriplets;
    for (int i = 0; none && i < 12; ++i)
      results[b].cam_from_world[i] = problem.num_initial ? problem.initial[i] : (i % 5 == 0 ? 1.0 : 0.0);
  });
}

}  // namespace

const EstimatePoseKernels& estimate_pose_kernels() {
  static constexpr EstimatePoseKernels kernels{&run, &run_batch};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
