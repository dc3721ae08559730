// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>

#include "pyloc/camera.h"
#include "pyloc/se3.h"

namespace {

using pyloc::Camera;
using pyloc::Vec2;
using pyloc::Vec3;

const Camera<double> kCameras[] = {
    {pyloc::kPinhole, 500, 510, 320, 240, {}},
    {pyloc::kOpenCV, 500, 510, 320, 240, {0.2, 0.02, 1e-3, -2e-3, 0.01, 0.25, 0.03, 0.004}},
    {pyloc::kFisheye, 500, 510, 320, 240, {-0.03, 0.01, -2e-3, 4e-4}},
};

Vec3<double> random_point(std::mt19937& rng) {
  std::uniform_real_distribution<double> lateral(-0.6, 0.6), depth(1, 20);
  const double z = depth(rng);
  return {lateral(rng) * z, lateral(rng) * z, z};
}

TEST(Camera, JacobianMatchesCentralDifferences) {
  std::mt19937 rng(1);
  for (const auto& cam : kCameras) {
    for (int trial = 0; trial < 100; ++trial) {
      const Vec3<double> X = random_point(rng);
      Vec2<double> xy;
      double J[6];
      ASSERT_TRUE(pyloc::project_jacobian(cam, X, xy, J));
      for (int axis = 0; axis < 3; ++axis) {
        const double h = 1e-6 * X.z;
        Vec3<double> a = X, b = X;
        (axis == 0 ? a.x : axis == 1 ? a.y : a.z) += h;
        (axis == 0 ? b.x : axis == 1 ? b.y : b.z) -= h;
        Vec2<double> pa, pb;
        ASSERT_TRUE(pyloc::project(cam, a, pa) && pyloc::project(cam, b, pb));
        EXPECT_NEAR(J[axis], (pa.x - pb.x) / (2 * h), 1e-4);
        EXPECT_NEAR(J[3 + axis], (pa.y - pb.y) / (2 * h), 1e-4);
      }
    }
  }
}

TEST(Camera, FisheyeIsSmoothAtTheAxis) {
  const auto& cam = kCameras[2];
  for (const double r : {0.0, 1e-9, 1e-7, 1e-5}) {
    Vec2<double> xy;
    double J[6];
    ASSERT_TRUE(pyloc::project_jacobian(cam, Vec3<double>{r, 0, 2}, xy, J));
    EXPECT_NEAR(xy.x, 320 + 500 * r / 2, 1e-9);
    EXPECT_NEAR(J[0], 250, 1e-4);
    EXPECT_NEAR(J[4], 255, 1e-4);
  }
}

TEST(Camera, RefusesWhatCannotBeSeen) {
  for (const auto& cam : kCameras) {
    Vec2<double> xy;
    EXPECT_FALSE(pyloc::project(cam, Vec3<double>{0, 0, -1}, xy));
    EXPECT_FALSE(pyloc::project(cam, Vec3<double>{1, 1, 0}, xy));
    EXPECT_FALSE(pyloc::project(cam, Vec3<double>{NAN, 0, 1}, xy));
    EXPECT_FALSE(pyloc::project(cam, Vec3<double>{0, 0, NAN}, xy));
  }
}

TEST(Camera, UnprojectIsAUnitBearingEvenOutsideTheModel) {
  // k1 = -0.5 folds back beyond r = 0.8: no exact inverse exists there, but the answer stays finite.
  const Camera<double> folding{pyloc::kOpenCV, 1, 1, 0, 0, {-0.5}};
  for (const double x : {0.1, 0.5, 0.9, 5.0, 1e6}) {
    const auto ray = pyloc::unproject(folding, Vec2<double>{x, 0});
    EXPECT_NEAR(pyloc::norm(ray), 1.0, 1e-9) << x;
  }
}

TEST(Se3, PoseJacobianMatchesTheLeftUpdate) {
  std::mt19937 rng(2);
  const auto& cam = kCameras[1];
  const pyloc::Pose<double> pose{pyloc::so3_exp(Vec3<double>{0.3, -0.2, 0.1}), {0.1, -0.2, 3.0}};
  for (int trial = 0; trial < 20; ++trial) {
    const Vec3<double> X{0.1 * trial - 1, 0.5, 0.2 * trial};
    const Vec3<double> RX = pose.R * X;
    Vec2<double> xy;
    double J_point[6], J[12];
    ASSERT_TRUE(pyloc::project_jacobian(cam, RX + pose.t, xy, J_point));
    pyloc::pose_jacobian(J_point, RX, J);
    for (int i = 0; i < 6; ++i) {
      double d[6] = {};
      const double h = 1e-6;
      Vec2<double> pa, pb;
      d[i] = h;
      ASSERT_TRUE(pyloc::project(cam, pyloc::transform(pyloc::left_update(pose, d), X), pa));
      d[i] = -h;
      ASSERT_TRUE(pyloc::project(cam, pyloc::transform(pyloc::left_update(pose, d), X), pb));
      EXPECT_NEAR(J[i], (pa.x - pb.x) / (2 * h), 1e-4);
      EXPECT_NEAR(J[6 + i], (pa.y - pb.y) / (2 * h), 1e-4);
    }
  }
}

}  // namespace
