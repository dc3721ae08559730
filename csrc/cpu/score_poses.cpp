// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/score_poses.h"

#include "cpu/map_selection.h"
#include "cpu/scoring_set.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr std::int64_t kChunk = 512;  // poses scored together by one thread

// Windows too large to be made dense: float64 on the sparse maps.
void score_exact(const ScorePosesProblem& problem, const MapSelection& selection, int filled,
                 std::int64_t begin, std::int64_t end, float* gain) {
  const ExactScores exact(problem.maps, problem.points, problem.camera, selection.peak.data());
  for (std::int64_t i = begin; i < end; ++i) {
    MsacHypothesis h{0.0, 0.0, i, load_pose<double>(problem.cam_from_world + 12 * i)};
    exact.run(selection.usable.data(), filled, &h, 1);
    gain[i] = float(h.gain);
  }
}

bool run(const ScorePosesProblem& problem, int num_threads, float* gain) {
  MapSelection selection(std::size_t(problem.maps.count));
  Scratch<Pose<double>> poses{std::size_t(problem.num_poses)};
  const std::int64_t chunks = (problem.num_poses + kChunk - 1) / kChunk;
  Scratch<std::uint8_t> done{std::size_t(chunks)};
  if (!selection.ok() || !poses || !done) return false;
  int filled = 0;  // maps that hold anything
  for (std::int64_t n = 0; n < problem.maps.count; ++n) {
    selection.peak[n] = peak_of_map(problem.maps, n, selection.entry[n]).peak;
    if (selection.entry[n] >= 0) selection.usable[filled++] = int(n);
  }
  for (std::int64_t i = 0; i < problem.num_poses; ++i)
    poses[i] = load_pose<double>(problem.cam_from_world + 12 * i);
  const ScoringSet set(problem.maps, problem.points, selection.usable.data(), selection.peak.data(), filled);
  if (!set.ok()) return false;
  const Camera<float> cam = convert<float>(problem.camera);
  runtime::parallel_for(chunks, num_threads, [&](std::int64_t c) {
    const std::int64_t begin = c * kChunk, left = problem.num_poses - begin;
    const int count = int(left < kChunk ? left : kChunk);
    done[c] = 1;
    if (!set.dense()) {
      score_exact(problem, selection, filled, begin, begin + count, gain);
    } else {
      done[c] = set.score_poses(cam, poses.data() + begin, count, -HUGE_VAL, gain + begin);
    }
  });
  for (std::int64_t c = 0; c < chunks; ++c)
    if (!done[c]) return false;
  return true;
}

}  // namespace

const ScorePosesKernels& score_poses_kernels() {
  static constexpr ScorePosesKernels kernels{&run};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
