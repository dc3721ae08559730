// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Second and third phase of a round of estimate_pose on a GPU: float32 scores of the hypotheses, then those
// that may belong to the best once more in float64, and the adaptive stop. See msac_problem.h.
#pragma once

#include "pyloc/msac_exact.h"
#include "pyloc/msac_score.h"

PYLOC_NAMESPACE_BEGIN

static_assert(kTileSlots == kHypothesesPerBlock, "one block scores a tile");

// One block per problem, tile and chunk of maps.
template <int BlockThreads>
struct ScorePhase {
  static constexpr int kThreads = BlockThreads;
  MsacInput in;
  MsacWorkspace ws;
  std::int64_t first_problem;
  int tiles, used;  // of the workspace; of this round
  int chunks;
  bool dense;

  template <int Threads>
  struct Shared {};

  // `cells` is shared memory for a dense map where `dense`.
  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>&, std::int64_t block, float* cells) const {
    const int chunk = int(block % chunks), tile = int(block / chunks % used);
    const std::int64_t local = block / chunks / used, b = first_problem + local;
    const MsacState& state = ws.state[b];
    if (state.finished) return;
    const std::int64_t at = local * tiles + tile, begin = maps_of(in, b).begin;
    if (ws.count[at] == 0) return;
    const Camera<float> cam = convert<float>(camera_of(in, b));
    const std::int32_t* slots = ws.slot + at * kTileSlots;
    const ScoringPose* rows = ws.row + at * kTileSlots;
    const auto pose = [&](int i) { return rows[slots[i]]; };
    const auto map = [&](int k) {
      const float* X = ws.point + 3 * (begin + k);
      return ScoredMap{begin + ws.order[begin + k], {X[0], X[1], X[2]}};
    };
    const std::int64_t n = state.num_sampled;
    score_tile(g, in.maps, cam, dense ? cells : nullptr, pose, ws.count[at], map, int(n * chunk / chunks),
               int(n * (chunk + 1) / chunks), ws.partial + (at * chunks + chunk) * kTileSlots);
  }
};

// One block per problem.
struct CollectPhase {
  static constexpr int kThreads = 512;
  MsacInput in;
  MsacWorkspace ws;
  std::int64_t first_problem;
  int tiles, chunks;
  std::int64_t first, triplets;  // as in HypothesesPhase

  template <int Threads>
  struct Shared {
    float best[Threads][kMsacFinalists];
    int scan[Threads];
    ExactScratch<Threads> exact;
    MsacPool<kMsacFinalists> pool;
    std::int64_t done, wanted, round_end;
  };

  template <class Group>
  PYLOC_HD void run(const Group& g, Shared<Group::kSize>& s, std::int64_t local) const {
    MsacState& state = ws.state[first_problem + local];
    if (state.finished) return;
    if (g.rank() == 0) {
      s.pool = state.pool;
      s.done = state.done;
      s.wanted = state.wanted;
      s.round_end = state.round_end;
    }
    add_chunks(g, local);
    g.sync();
    // The CPU's rounds, as far as this round's triplets reach. Where they end inside one, the next launch
    // goes on: the pool does not depend on how its hypotheses are portioned.
    while (s.done < s.wanted && s.done < first + triplets) {
      const std::int64_t end = s.round_end < first + triplets ? s.round_end : first + triplets;
      piece(g, s, local, state, s.done - first, end - first);
      g.sync();
      if (g.rank() == 0) advance(s, state, end);
      g.sync();
    }
    if (g.rank() != 0) return;
    state.pool = s.pool;
    state.done = s.done;
    state.wanted = s.wanted;
    state.round_end = s.round_end;
    state.finished = s.done >= s.wanted;
  }

 private:
  PYLOC_HD int used() const { return int((triplets + kTileTriplets - 1) / kTileTriplets); }

  // Scores of all hypotheses of the round, over all chunks of maps in order.
  template <class Group>
  PYLOC_HD void add_chunks(const Group& g, std::int64_t local) const {
    for (int tile = 0; tile < used(); ++tile) {
      const std::int64_t at = local * tiles + tile;
      const float* partial = ws.partial + at * chunks * kTileSlots;
      for (int i = g.rank(); i < ws.count[at]; i += Group::kSize) {
        float sum = 0.0f;
        for (int c = 0; c < chunks; ++c) sum += partial[std::int64_t(c) * kTileSlots + i];
        ws.score[at * kTileSlots + i] = sum;
      }
    }
    g.sync();
  }

  // Calls visit(place, score) for the thread's share of the hypotheses of triplets low .. high - 1 of this
  // round; place = tile * kTileSlots + i.
  template <class Group, class Visit>
  PYLOC_HD void each_score(const Group& g, std::int64_t local, std::int64_t low, std::int64_t high,
                           const Visit& visit) const {
    for (int tile = int(low / kTileTriplets); tile * std::int64_t(kTileTriplets) < high; ++tile) {
      const std::int64_t at = local * tiles + tile;
      for (int i = g.rank(); i < ws.count[at]; i += Group::kSize) {
        const std::int64_t t = std::int64_t(tile) * kTileTriplets + ws.slot[at * kTileSlots + i] / kMsacRoots;
        if (t >= low && t < high) visit(tile * kTileSlots + i, ws.score[at * kTileSlots + i]);
      }
    }
  }

  PYLOC_HD static void keep(float best[kMsacFinalists], float value) {
    for (int k = 0; k < kMsacFinalists; ++k) {
      if (!(value > best[k])) continue;
      const float next = best[k];
      best[k] = value;
      value = next;
    }
  }

  // The score of the last that would enter an empty pool; -infinity where there are fewer.
  template <class Group>
  PYLOC_HD float bound(const Group& g, Shared<Group::kSize>& s, std::int64_t local, std::int64_t low,
                       std::int64_t high) const {
    float best[kMsacFinalists];
    for (float& value : best) value = -HUGE_VALF;
    each_score(g, local, low, high, [&](int, float score) { keep(best, score); });
    for (int k = 0; k < kMsacFinalists; ++k) s.best[g.rank()][k] = best[k];
    for (int half = Group::kSize / 2; half > 0; half /= 2) {
      g.sync();
      if (g.rank() >= half) continue;
      for (int k = 0; k < kMsacFinalists; ++k) keep(s.best[g.rank()], s.best[g.rank() + half][k]);
    }
    g.sync();
    return s.best[0][kMsacFinalists - 1];
  }

  // Triplets low .. high - 1 of this round: whatever may belong to the finalists is scored in float64.
  template <class Group>
  PYLOC_HD void piece(const Group& g, Shared<Group::kSize>& s, std::int64_t local, const MsacState& state,
                      std::int64_t low, std::int64_t high) const {
    const double best = double(bound(g, s, local, low, high)) - state.tolerance;
    const double least = max_(s.pool.threshold(), best) - state.tolerance;
    int own = 0, total;
    each_score(g, local, low, high, [&](int, float score) { own += double(score) >= least; });
    int place = group_offset(g, s.scan, own, total);
    std::int32_t* list = ws.candidate + local * tiles * kTileSlots;
    each_score(g, local, low, high, [&](int hypothesis, float score) {
      if (double(score) >= least) list[place++] = hypothesis;
    });
    g.sync();
    const std::int64_t base = local * tiles * kTileSlots;
    const auto hypothesis = [&](int i) {
      const std::int64_t tile = list[i] / kTileSlots;
      const int slot = ws.slot[base + list[i]];
      const std::int64_t number = kMsacRoots * (first + tile * kTileTriplets) + slot;
      const double* pose = ws.pose + 12 * (base + tile * kTileSlots + slot);
      return MsacHypothesis{0.0, 0.0, number, load_pose<double>(pose)};
    };
    collect_exact(g, s.exact, in, ws, first_problem + local, state.num_sampled, hypothesis, total, s.pool);
  }

  template <class Shared>
  PYLOC_HD void advance(Shared& s, const MsacState& state, std::int64_t end) const {
    s.done = end;
    if (end < s.round_end) return;
    if (in.iterations <= 0) {
      const double support = s.pool.count ? s.pool.entry[0].support : 0.0;
      s.wanted = required_triplets(support / double(state.num_sampled), in.confidence);
    }
    if (end < s.wanted) s.round_end = end + round_size(end, s.wanted);
  }
};

PYLOC_NAMESPACE_END
