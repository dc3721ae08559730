// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Random refinement problems: peaks near the projections of points, some of them elsewhere.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "pyloc/gnc_verdict.h"

struct GncProblems {
  static constexpr int kW = 100, kH = 75;
  std::vector<std::int64_t> row_ptr{0}, problem_ptr{0};
  std::vector<std::int16_t> xy;
  std::vector<float> gain, flat;
  std::vector<double> points, starts, truths;
  std::vector<double> camera{0, 75, 75, 49.5, 37, 0, 0, 0, 0, 0, 0, 0, 0};

  // One more problem of `count` maps whose peaks have a standard deviation of 1 cell.
  void add(unsigned seed, int count, double outliers = 0.3, double offset = 0.0) {
    std::mt19937 rng(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    const pyloc::Vec3<double> w{normal(rng), normal(rng), normal(rng)};
    pyloc::Pose<double> truth{pyloc::so3_exp(w), {3 * normal(rng), 3 * normal(rng), 3 * normal(rng)}};
    const pyloc::Vec3<double> move{offset, -offset, offset / 2};
    for (int n = 0; n < count; ++n) {
      double x = 4 + uniform(rng) * (kW - 9), y = 4 + uniform(rng) * (kH - 9);
      const double z = 4 + 16 * uniform(rng);
      const pyloc::Vec3<double> in_camera{(x - 49.5) / 75 * z, (y - 37) / 75 * z, z};
      const auto X = pyloc::transpose(truth.R) * (in_camera - truth.t) + move;
      points.insert(points.end(), {X.x, X.y, X.z});
      const bool wrong = uniform(rng) < outliers;
      x = wrong ? uniform(rng) * (kW - 1) : x + 0.3 * normal(rng);
      y = wrong ? uniform(rng) * (kH - 1) : y + 0.3 * normal(rng);
      add_map(x, y, rng, normal);
    }
    truth.t = truth.t - truth.R * move;
    double d[6];
    for (int k = 0; k < 3; ++k) d[k] = 0.02 * normal(rng);
    pyloc::Pose<double> start = truth;  // turned about the camera's centre, then moved
    const auto turn = pyloc::so3_exp(pyloc::Vec3<double>{d[0], d[1], d[2]});
    start.R = turn * truth.R;
    start.t = turn * truth.t + pyloc::Vec3<double>{0.1 * normal(rng), 0.1 * normal(rng), 0.1 * normal(rng)};
    push(start, starts);
    push(truth, truths);
    problem_ptr.push_back(std::int64_t(flat.size()));
  }

  std::int64_t problems() const { return std::int64_t(problem_ptr.size()) - 1; }
  pyloc::LossMapsView view() const {
    pyloc::LossMapsView maps{};
    maps.count = std::int64_t(flat.size());
    maps.row_ptr = row_ptr.data();
    maps.xy = xy.data();
    maps.gain = gain.data();
    maps.window_w = maps.map_w = kW;
    maps.window_h = maps.map_h = kH;
    maps.log_cardinality = std::log(1.0 + kW * kH);
    maps.flat_gain = flat.data();
    return maps;
  }

 private:
  void add_map(double x, double y, std::mt19937& rng, std::normal_distribution<double>& normal) {
    for (int row = std::max(0, int(y) - 6); row < std::min(kH, int(y) + 8); ++row)
      for (int column = std::max(0, int(x) - 6); column < std::min(kW, int(x) + 8); ++column) {
        const double r2 = (row - y) * (row - y) + (column - x) * (column - x);
        xy.push_back(std::int16_t(column));
        xy.push_back(std::int16_t(row));
        gain.push_back(float(7.5 * std::exp(-0.5 * r2) + 0.3 * std::abs(normal(rng)) + 1e-3));
      }
    row_ptr.push_back(std::int64_t(gain.size()));
    flat.push_back(0.0f);
  }
  static void push(const pyloc::Pose<double>& pose, std::vector<double>& out) {
    double values[12];
    pyloc::store_pose(pose, values);
    out.insert(out.end(), values, values + 12);
  }
};

// Room for a batch's results, and the batch itself.
struct GncResults {
  explicit GncResults(const GncProblems& p, const pyloc::GncOptions& options)
      : pose(12 * p.starts.size() / 12),
        scores(3 * std::size_t(p.problems())),
        covariance(36 * std::size_t(p.problems())),
        inlier(p.flat.size(), -1.0),
        counts(4 * std::size_t(p.problems()), -7),
        success(std::size_t(p.problems()), 9),
        workspace(std::size_t(pyloc::gnc_workspace_bytes(std::int64_t(p.gain.size()), p.view().count)) / 8 +
                  4) {
    batch.maps = p.view();
    batch.problems = p.problems();
    batch.problem_ptr = p.problem_ptr.data();
    batch.points = p.points.data();
    batch.camera = pyloc::load_camera(p.camera.data());
    batch.start = p.starts.data();
    batch.options = options;
    batch.cam_from_world = pose.data();
    batch.scores = scores.data();
    batch.covariance = covariance.data();
    batch.counts = counts.data();
    batch.success = success.data();
    batch.inlier = inlier.data();
    const auto at = (reinterpret_cast<std::uintptr_t>(workspace.data()) + 15) / 16 * 16;
    batch.workspace = reinterpret_cast<void*>(at);
  }

  std::vector<double> pose, scores, covariance, inlier;
  std::vector<std::int32_t> counts;
  std::vector<std::uint8_t> success;
  std::vector<double> workspace;
  pyloc::GncBatch batch{};
};
