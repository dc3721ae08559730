// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The GPU's phases of estimate_pose and score_poses, blocks of real threads in lock step against blocks of
// one thread: a missing barrier shows in the results, or in a sanitizer.
#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "gnc_problems.h"
#include "lane_group.h"
#include "pyloc/msac_schedule.h"
#include "pyloc/score_schedule.h"

namespace {

// A block of Size threads as pyloc/block_group.h wants it.
template <int Size>
struct LockStep {
  static constexpr int kSize = Size;
  LaneExchange* exchange;
  int lane;
  int rank() const { return lane; }
  void sync() const { exchange->wait(); }
};

template <int Size>
struct Launcher {
  std::vector<float> cells;

  template <class Block>
  void each_block(std::int64_t blocks, const Block& run_block) {
    LaneExchange exchange(Size);
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < Size; ++lane)
      lanes.emplace_back([&, lane] {
        const LockStep<Size> group{&exchange, lane};
        for (std::int64_t block = 0; block < blocks; ++block) {
          run_block(group, block);
          group.sync();
        }
      });
    for (auto& lane : lanes) lane.join();
  }
  template <class Phase>
  bool run(const Phase& phase, std::int64_t blocks) {
    const auto shared = std::make_unique<typename Phase::template Shared<Size>>();
    each_block(blocks, [&](const LockStep<Size>& g, std::int64_t block) { phase.run(g, *shared, block); });
    return true;
  }
  template <class Phase>
  bool run_dense(const Phase& phase, std::int64_t blocks, std::int64_t count) {
    // Not zeros: shared memory holds anything when a block starts.
    cells.assign(std::size_t(count), 7.0f);
    typename Phase::template Shared<Size> none;
    each_block(blocks,
               [&](const LockStep<Size>& g, std::int64_t block) { phase.run(g, none, block, cells.data()); });
    return true;
  }
};

struct Outcome {
  explicit Outcome(const GncProblems& p)
      : pose(p.truths.size(), NAN),
        cost(std::size_t(p.problems()), NAN),
        gain(cost),
        probability(p.flat.size(), NAN),
        status(cost.size(), -9),
        iterations(status),
        usable(status),
        consistent(status) {}
  pyloc::MsacOutput view() {
    return {pose.data(),       status.data(), cost.data(),       gain.data(),
            iterations.data(), usable.data(), consistent.data(), probability.data()};
  }
  std::vector<double> pose, cost, gain, probability;
  std::vector<std::int32_t> status, iterations, usable, consistent;
};

pyloc::MsacInput input(const GncProblems& p, std::int64_t iterations) {
  pyloc::MsacInput in{};
  in.maps = p.view();
  in.points = p.points.data();
  in.camera = pyloc::load_camera(p.camera.data());
  in.problem_ptr = p.problem_ptr.data();
  in.initial = p.starts.data();
  in.num_problems = p.problems();
  in.num_initial = 1;
  in.iterations = iterations;
  in.confidence = 0.999;
  in.top_fraction = 1.0;
  in.seed = 3;
  return in;
}

template <int Size>
Outcome estimate(const GncProblems& p, std::int64_t iterations, bool dense) {
  const pyloc::MsacInput in = input(p, iterations);
  Outcome out(p);
  const pyloc::MsacPlan plan = pyloc::msac_plan(in.maps.count, in.num_problems, dense);
  pyloc::MsacWorkspace ws{};
  const std::size_t bytes = pyloc::msac_workspace(plan, in.maps.count, in.num_problems, nullptr, &ws);
  std::vector<double> memory(bytes / 8 + 1, -3e7);  // a workspace comes with anything in it
  pyloc::msac_workspace(plan, in.maps.count, in.num_problems, memory.data(), &ws);
  Launcher<Size> launcher;
  EXPECT_TRUE(pyloc::msac_schedule(in, out.view(), ws, plan, launcher));
  return out;
}

template <int Size>
std::vector<double> score(const GncProblems& p, bool dense) {
  pyloc::ScoreInput in{input(p, 0), p.truths.data(), 1};
  const pyloc::ScorePlan plan = pyloc::score_plan(in.problem.maps.count, in.problem.num_problems, 1, dense);
  pyloc::ScoreWorkspace ws{};
  std::vector<double> memory(
      pyloc::score_workspace(plan, in.problem.maps.count, in.problem.num_problems, nullptr, &ws) / 8 + 1,
      NAN);
  pyloc::score_workspace(plan, in.problem.maps.count, in.problem.num_problems, memory.data(), &ws);
  std::vector<double> cost(std::size_t(p.problems()), NAN);
  Launcher<Size> launcher;
  EXPECT_TRUE(pyloc::score_schedule(in, ws, plan, cost.data(), launcher));
  return cost;
}

GncProblems problems() {
  GncProblems p;
  p.add(1, 20, 0.2);
  p.add(2, 0);
  p.add(3, 3);
  p.add(4, 24, 0.5);
  return p;
}

}  // namespace

TEST(MsacPhases, ABlockOfThreadsFindsWhatOneThreadFinds) {
  const GncProblems p = problems();
  for (const bool dense : {true, false}) {
    const Outcome one = estimate<1>(p, 70, dense), many = estimate<64>(p, 70, dense);
    EXPECT_EQ(one.status, (std::vector<std::int32_t>{0, 1, 1, 0}));
    EXPECT_EQ(many.status, one.status);
    EXPECT_EQ(many.iterations, one.iterations);
    EXPECT_EQ(many.usable, one.usable);
    EXPECT_EQ(many.consistent, one.consistent);
    for (std::size_t i = 0; i < one.pose.size(); ++i) EXPECT_NEAR(many.pose[i], one.pose[i], 1e-12);
    for (std::size_t b = 0; b < one.cost.size(); ++b) EXPECT_NEAR(many.cost[b], one.cost[b], 1e-9);
    for (std::size_t n = 0; n < one.probability.size(); ++n)
      EXPECT_NEAR(many.probability[n], one.probability[n], 1e-12);
  }
}

TEST(MsacPhases, TheSameBitsEveryTime) {
  const GncProblems p = problems();
  const Outcome first = estimate<16>(p, 0, true), again = estimate<16>(p, 0, true);
  EXPECT_EQ(again.pose, first.pose);
  EXPECT_EQ(again.probability, first.probability);
  EXPECT_EQ(first.iterations[0], 128);
}

TEST(ScorePhases, ABlockOfThreadsFindsWhatOneThreadFinds) {
  const GncProblems p = problems();
  const Outcome found = estimate<1>(p, 70, true);
  for (const bool dense : {true, false}) {
    const auto one = score<1>(p, dense), many = score<32>(p, dense);
    for (std::size_t b = 0; b < one.size(); ++b) EXPECT_NEAR(many[b], one[b], 1e-3);
    EXPECT_EQ(one[1], 0.0);
    EXPECT_GT(one[2], 0.0);
    EXPECT_LT(one[0], found.cost[0] + 20.0);  // the true pose
  }
}
