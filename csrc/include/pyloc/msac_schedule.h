// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The phases of estimate_pose on a GPU in their order, for whatever launches them: a CUDA stream, or loops on
// the CPU in the tests. Nothing here looks at a result. See msac_problem.h.
#pragma once

#include "pyloc/msac_finish.h"
#include "pyloc/msac_hypotheses.h"
#include "pyloc/msac_round.h"
#include "pyloc/msac_select.h"

PYLOC_NAMESPACE_BEGIN

constexpr std::int64_t kPassProblems = 128;      // problems that share the memory of a round
constexpr std::int64_t kPassTriplets = 1 << 16;  // of all problems of a pass in a round
constexpr std::int64_t kFewestTriplets = 1024, kMostTriplets = 4096;
constexpr std::int64_t kPassBlocks = 512;  // that score one tile of each problem

PYLOC_HD inline std::int64_t clamped(std::int64_t value, std::int64_t low, std::int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// `dense`: one dense map fits into shared memory.
inline MsacPlan msac_plan(std::int64_t num_maps, std::int64_t num_problems, bool dense) {
  const std::int64_t problems = clamped(num_problems, 1, kPassProblems);
  std::int64_t triplets = kFewestTriplets;
  while (triplets < kMostTriplets && 2 * triplets * problems <= kPassTriplets) triplets *= 2;
  const std::int64_t chunks = clamped(kPassBlocks / problems, 4, 64);
  return {problems, int(triplets / kTileTriplets), int(clamped(num_maps / 4, 1, chunks)), dense};
}

// Places the arrays of the workspace from `memory` on (null: only counts); its size in bytes.
inline std::size_t msac_workspace(const MsacPlan& plan, std::int64_t num_maps, std::int64_t num_problems,
                                  void* memory, MsacWorkspace* ws) {
  WorkspaceCursor cursor{static_cast<char*>(memory)};
  const std::int64_t N = num_maps, tiles = plan.problems * plan.tiles, slots = tiles * kTileSlots;
  cursor.place(ws->state, num_problems);
  cursor.place(ws->key, N);
  cursor.place(ws->peak, N);
  cursor.place(ws->share, N);
  cursor.place(ws->best, 2 * N);
  cursor.place(ws->order, N);
  cursor.place(ws->cell, 2 * N);
  cursor.place(ws->bearing, 3 * N);
  cursor.place(ws->point, 3 * N);
  cursor.place(ws->final_gain, kMsacFinalists * N);
  cursor.place(ws->pose, 12 * slots);
  cursor.place(ws->row, slots);
  cursor.place(ws->slot, slots);
  cursor.place(ws->count, tiles);
  cursor.place(ws->partial, plan.chunks * slots);
  cursor.place(ws->score, slots);
  cursor.place(ws->candidate, slots);
  return cursor.used;
}

// One pass: problems first .. first + problems - 1 through all rounds that any of them may need.
template <class Launcher>
bool msac_rounds(const MsacInput& in, const MsacWorkspace& ws, const MsacPlan& plan, std::int64_t first,
                 std::int64_t problems, Launcher& launcher) {
  const std::int64_t limit = in.iterations > 0 ? in.iterations : kMsacMaxIterations;
  const std::int64_t cells = plan.dense ? DenseGains::count(in.maps.window_w, in.maps.window_h) : 0;
  for (std::int64_t done = 0, triplets; done < limit; done += triplets) {
    triplets = clamped(done, kTileTriplets, std::int64_t(plan.tiles) * kTileTriplets);
    if (triplets > limit - done) triplets = limit - done;
    const std::int64_t used = (triplets + kTileTriplets - 1) / kTileTriplets;
    const HypothesesPhase draw{in, ws, first, plan.tiles, done, triplets};
    const ScorePhase<kFewThreads> score{in, ws, first, plan.tiles, int(used), plan.chunks, plan.dense};
    const ScorePhase<kManyThreads> score_large{in, ws, first, plan.tiles, int(used), plan.chunks, plan.dense};
    const std::int64_t blocks = problems * used * plan.chunks;
    const CollectPhase collect{in, ws, first, plan.tiles, plan.chunks, done, triplets};
    if (!launcher.run(draw, problems * used)) return false;
    const bool scored = cells > kFewCells ? launcher.run_dense(score_large, blocks, cells)
                                          : launcher.run_dense(score, blocks, cells);
    if (!scored) return false;
    if (!launcher.run(collect, problems)) return false;
  }
  return true;
}

// launcher.run(phase, blocks) and .run_dense(phase, blocks, floats of shared memory); false ends it.
template <class Launcher>
bool msac_schedule(const MsacInput& in, const MsacOutput& out, const MsacWorkspace& ws, const MsacPlan& plan,
                   Launcher& launcher) {
  const std::int64_t N = in.maps.count, B = in.num_problems;
  const auto blocks = [](std::int64_t items, int each) { return (items + each - 1) / each; };
  if (!launcher.run(EvidencePhase{in, ws}, blocks(N, EvidencePhase::kMapsPerBlock))) return false;
  if (!launcher.run(OrderPhase{in, ws}, blocks(N, OrderPhase::kThreads))) return false;
  if (!launcher.run(SetupPhase{in, ws}, B)) return false;
  for (std::int64_t first = 0; N > 0 && first < B; first += plan.problems) {
    const std::int64_t problems = B - first < plan.problems ? B - first : plan.problems;
    if (!msac_rounds(in, ws, plan, first, problems, launcher)) return false;
  }
  if (!launcher.run(FinalGainPhase{in, out, ws}, blocks(N, FinalGainPhase::kThreads))) return false;
  return launcher.run(DecidePhase{in, out, ws}, B);
}

PYLOC_NAMESPACE_END
