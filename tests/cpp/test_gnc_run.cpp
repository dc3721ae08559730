// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// What the GPU does for refine_pose, run on the CPU and held against the CPU's own kernel.
#include <gtest/gtest.h>

#include <cmath>

#include "cpu/refine_pose.h"
#include "gnc_problems.h"
#include "lane_group.h"

namespace {

const pyloc::GncOptions kCoarse{2.0, 0.6, 200, 0.1, 1e-5, 0};

struct Native {
  pyloc::cpu::RefinePoseResult result{};
  std::vector<double> gains;
};

Native native(const GncProblems& p, std::int64_t b, const pyloc::GncOptions& options) {
  const std::int64_t first = p.problem_ptr[std::size_t(b)], count = p.problem_ptr[std::size_t(b) + 1] - first;
  auto maps = p.view();
  maps.count = count;
  maps.row_ptr += first;
  maps.flat_gain += first;
  Native out;
  out.gains.resize(std::size_t(count) + 1);
  const auto camera = pyloc::load_camera(p.camera.data());
  EXPECT_TRUE(pyloc::cpu::refine_pose_kernels().refine(maps, p.points.data() + 3 * first, camera,
                                                       p.starts.data() + 12 * b, options, 1, out.gains.data(),
                                                       &out.result));
  return out;
}

void run_lone(const GncResults& r) {
  pyloc::GncShared shared;
  for (std::int64_t b = 0; b < r.batch.problems; ++b)
    pyloc::refine_problem(pyloc::LoneThread(), r.batch, b, shared);
}

template <int Tile>
void run_together(const GncResults& r, int lanes, int parts = 1) {
  std::vector<pyloc::GncShared> shared(parts);
  for (std::int64_t b = 0; b < r.batch.problems; ++b)
    run_lanes<Tile>(lanes, parts, [&](const LaneGroup<Tile>& g) {
      pyloc::refine_problem(g, r.batch, b, shared[std::size_t(g.part())]);
    });
}

void expect_native(const GncProblems& p, const GncResults& r, std::int64_t b) {
  const Native n = native(p, b, r.batch.options);
  const double* pose = r.pose.data() + 12 * b;
  double worst = 0.0;
  for (int k = 0; k < 12; ++k) worst = std::max(worst, std::abs(pose[k] - n.result.cam_from_world[k]));
  // Wrong maps alone leave a flat valley: where in it the steps end depends on the last bits.
  EXPECT_LT(worst, r.success[b] ? 2e-5 : 2e-3) << "problem " << b;
  EXPECT_NEAR(r.scores[3 * b + 1], n.result.gain, 1e-3 * (1 + std::abs(n.result.gain)));
  EXPECT_NEAR(r.scores[3 * b + 2], n.result.energy, 1e-5 * (1 + std::abs(n.result.energy)));
  EXPECT_EQ(r.counts[4 * b] % pyloc::kGncReasons, n.result.reason);
  EXPECT_EQ(r.counts[4 * b + 2], n.result.consensus.usable);
  EXPECT_EQ(r.counts[4 * b + 3], n.result.consensus.consistent);
  const bool success = n.result.consensus.success && std::isfinite(n.result.covariance[0]);
  EXPECT_EQ(r.success[b], success ? 1 : 0);
  for (int k = 0; success && k < 6; ++k)
    EXPECT_NEAR(r.covariance[36 * b + 7 * k] / n.result.covariance[7 * k], 1.0, 0.02) << "variance " << k;
  for (std::int64_t i = p.problem_ptr[b]; i < p.problem_ptr[b + 1]; ++i)
    EXPECT_NEAR(r.inlier[i], -std::expm1(-n.gains[i - p.problem_ptr[b]]), 1e-3);
}

TEST(GncRun, OneThreadDoesWhatTheCpuKernelDoes) {
  GncProblems p;
  for (unsigned seed = 0; seed < 20; ++seed) p.add(seed, 40 + 23 * int(seed % 7), seed % 5 == 4 ? 1.0 : 0.3);
  GncResults r(p, kCoarse);
  run_lone(r);
  int found = 0;
  for (std::int64_t b = 0; b < p.problems(); ++b) {
    expect_native(p, r, b);
    found += r.success[b];
  }
  EXPECT_EQ(found, 16);  // a fifth of them have nothing but wrong maps
}

TEST(GncRun, SoDoLanesInLockStep) {
  GncProblems p;
  p.add(31, 29, 0.1);
  p.add(32, 7, 0.0);
  p.add(33, 17, 1.0);
  GncResults r(p, kCoarse), again(p, kCoarse), wide(p, kCoarse);
  run_together<4>(r, 8);
  run_together<4>(again, 8);
  run_together<8>(wide, 16, 2);  // two blocks
  for (std::int64_t b = 0; b < p.problems(); ++b) {
    expect_native(p, r, b);
    expect_native(p, wide, b);
  }
  EXPECT_EQ(r.pose, again.pose);  // the same bits every time
  EXPECT_EQ(r.covariance, again.covariance);
}

TEST(GncRun, FineSigmasAndAWorldFarAway) {
  GncProblems p;
  p.add(40, 120, 0.3, 5e6);
  p.add(41, 90, 0.2);
  for (double sigma : {8.0, 0.6}) {
    auto options = kCoarse;
    options.sigma_max = sigma;
    GncResults r(p, options);
    run_lone(r);
    EXPECT_EQ(r.success[0] + r.success[1], 2);
    for (int b = 0; b < 2; ++b) {  // camera centres, since translations of the first are numbers of 1e6
      const Native n = native(p, b, options);
      const auto ours = pyloc::load_pose<double>(r.pose.data() + 12 * b);
      const auto theirs = pyloc::load_pose<double>(n.result.cam_from_world);
      const auto apart = pyloc::transpose(ours.R) * ours.t - pyloc::transpose(theirs.R) * theirs.t;
      EXPECT_LT(pyloc::norm(apart), 1e-4);
      for (int k = 0; k < 9; ++k) EXPECT_NEAR(ours.R.m[k], theirs.R.m[k], 2e-5);
    }
  }
}

TEST(GncRun, CamerasWithDistortion) {
  GncProblems p;
  p.camera = {1, 75, 76, 49.5, 37, -0.02, 0.003, 1e-3, -1e-3, 0, 0, 0, 0};
  p.add(50, 80);
  GncResults r(p, kCoarse);
  run_lone(r);
  expect_native(p, r, 0);
  p.camera = {2, 75, 76, 49.5, 37, -0.02, 0.003, 0, 0, 0, 0, 0, 0};
  GncResults fisheye(p, kCoarse);
  run_lone(fisheye);
  expect_native(p, fisheye, 0);
  EXPECT_NE(r.pose, fisheye.pose);
}

TEST(GncRun, ACameraPerProblemAndOneProblemWithoutOffsets) {
  GncProblems p;
  p.add(55, 60);
  p.add(56, 60);
  GncResults plain(p, kCoarse);
  run_lone(plain);
  std::vector<double> cameras(p.camera);
  cameras.insert(cameras.end(), p.camera.begin(), p.camera.end());
  cameras[13 + 1] = 80.0;
  GncResults r(p, kCoarse);
  r.batch.cameras = cameras.data();
  run_lone(r);
  EXPECT_TRUE(std::equal(r.pose.begin(), r.pose.begin() + 12, plain.pose.begin()));
  EXPECT_FALSE(std::equal(r.pose.begin() + 12, r.pose.end(), plain.pose.begin() + 12));
  GncProblems single;
  single.add(55, 60);
  GncResults alone(single, kCoarse);
  alone.batch.problem_ptr = nullptr;
  run_lone(alone);
  EXPECT_TRUE(std::equal(alone.pose.begin(), alone.pose.end(), plain.pose.begin()));
}

TEST(GncRun, IterationsAreBoundedAndFewMapsAreNoProblem) {
  GncProblems p;
  p.add(60, 50);
  p.add(61, 3);
  p.problem_ptr.push_back(p.problem_ptr.back());  // a problem without maps
  p.starts.insert(p.starts.end(), p.starts.begin(), p.starts.begin() + 12);
  auto options = kCoarse;
  options.max_iterations = 2;
  GncResults r(p, options);
  run_lone(r);
  EXPECT_EQ(r.counts[0] % pyloc::kGncReasons, pyloc::kGncMaxIterations);
  EXPECT_EQ(r.counts[1], 2);
  EXPECT_EQ(r.counts[4], pyloc::kGncFewUsable * pyloc::kGncReasons + pyloc::kGncNotRun);
  EXPECT_EQ(r.counts[8], pyloc::kGncNoPoints * pyloc::kGncReasons + pyloc::kGncNotRun);
  for (int b = 1; b < 3; ++b) {
    EXPECT_EQ(r.success[b], 0);
    EXPECT_TRUE(std::isinf(r.covariance[36 * b]));
    for (int k = 0; k < 12; ++k) EXPECT_EQ(r.pose[12 * b + k], p.starts[12 * b + k]);
  }
}

TEST(GncRun, BadValuesAndOffsetsSpoilOnlyTheirProblem) {
  GncProblems p;
  for (unsigned seed = 70; seed < 75; ++seed) p.add(seed, 50);
  GncResults good(p, kCoarse);
  run_lone(good);
  p.starts[12 * 1] = std::nan("");
  p.starts[12 * 2] += 0.5;                          // no rotation
  p.points[3 * (p.problem_ptr[3] + 5)] = HUGE_VAL;  // one point of problem 3: drops out
  GncResults r(p, kCoarse);
  run_lone(r);
  for (int b : {0, 4})
    for (int k = 0; k < 12; ++k) EXPECT_EQ(r.pose[12 * b + k], good.pose[12 * b + k]);
  for (int b : {1, 2}) {
    EXPECT_EQ(r.success[b], 0);
    EXPECT_EQ(r.counts[4 * b] / pyloc::kGncReasons, pyloc::kGncBadStart);
  }
  EXPECT_EQ(r.success[3], 1);
  EXPECT_NEAR(r.pose[36], good.pose[36], 0.01);
  p.problem_ptr = {-5, 1LL << 60, 3, 1, 1LL << 60, -1};  // nonsense: nothing outside is read
  GncResults wild(p, kCoarse);
  run_lone(wild);
  EXPECT_EQ(wild.counts[4] / pyloc::kGncReasons, pyloc::kGncBadStart);
}

TEST(GncRun, AStartALittleOffIsCleanedUp) {
  GncProblems p;
  p.add(80, 60);
  GncResults exact(p, kCoarse);
  run_lone(exact);
  for (int k : {0, 5, 10}) p.starts[k] += 1e-4;
  GncResults r(p, kCoarse);
  run_lone(r);
  EXPECT_EQ(r.success[0], 1);
  for (int k = 0; k < 12; ++k) EXPECT_NEAR(r.pose[k], exact.pose[k], 1e-4);
  pyloc::Pose<double> pose = pyloc::load_pose<double>(p.starts.data());
  ASSERT_TRUE(pyloc::clean_start(pose));
  const auto RtR = pyloc::transpose(pose.R) * pose.R;
  for (int k = 0; k < 9; ++k) EXPECT_NEAR(RtR.m[k], k % 4 == 0 ? 1.0 : 0.0, 1e-15);
  pose.R.m[0] = -pose.R.m[0], pose.R.m[1] = -pose.R.m[1], pose.R.m[2] = -pose.R.m[2];
  EXPECT_FALSE(pyloc::clean_start(pose));  // a reflection
}

}  // namespace
