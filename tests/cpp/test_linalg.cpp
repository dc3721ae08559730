// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <Eigen/Dense>

#include "pyloc/linalg.h"

namespace {

using Matrix6 = Eigen::Matrix<double, 6, 6, Eigen::RowMajor>;
using Vector6 = Eigen::Matrix<double, 6, 1>;

Matrix6 random_spd(int seed) {
  std::srand(static_cast<unsigned>(seed));
  const Matrix6 A = Matrix6::Random();
  return A * A.transpose() + 0.1 * Matrix6::Identity();
}

TEST(Linalg, SolvesAndInvertsLikeEigen) {
  for (int seed = 1; seed < 50; ++seed) {
    const Matrix6 A = random_spd(seed);
    const Vector6 b = Vector6::Random();
    Vector6 x;
    ASSERT_TRUE(pyloc::cholesky_solve<6>(A.data(), b.data(), x.data()));
    EXPECT_LT((A * x - b).norm(), 1e-9);
    Matrix6 inverse;
    ASSERT_TRUE(pyloc::spd_inverse<6>(A.data(), inverse.data()));
    EXPECT_LT((A * inverse - Matrix6::Identity()).norm(), 1e-8);
    EXPECT_EQ(inverse, inverse.transpose());
  }
}

TEST(Linalg, InverseSurvivesBadlyScaledUnits) {
  const Matrix6 A = random_spd(7);
  Vector6 units;
  units << 1, 1, 1, 1e-9, 1e-9, 1e-9;
  const Matrix6 scaled = units.asDiagonal() * A * units.asDiagonal();
  Matrix6 inverse;
  ASSERT_TRUE(pyloc::spd_inverse<6>(scaled.data(), inverse.data()));
  const Matrix6 back = units.asDiagonal() * inverse * units.asDiagonal();
  EXPECT_LT((back - A.inverse()).norm() / A.inverse().norm(), 1e-9);
}

TEST(Linalg, RefusesSingularAndNonFinite) {
  Matrix6 A = Matrix6::Zero(), inverse;
  Vector6 x = Vector6::Zero();
  EXPECT_FALSE(pyloc::cholesky_solve<6>(A.data(), x.data(), x.data()));
  EXPECT_FALSE(pyloc::spd_inverse<6>(A.data(), inverse.data()));
  A = Matrix6::Identity();
  A(2, 2) = -1;
  EXPECT_FALSE(pyloc::spd_inverse<6>(A.data(), inverse.data()));
  A(2, 2) = NAN;
  EXPECT_FALSE(pyloc::cholesky_solve<6>(A.data(), x.data(), x.data()));
}

TEST(Linalg, PsdProjectionMatchesTheEigenvalueForm) {
  for (int seed = 1; seed < 200; ++seed) {
    std::srand(static_cast<unsigned>(seed));
    Eigen::Matrix2d M = Eigen::Matrix2d::Random();
    M = (M + M.transpose()).eval();
    double a = M(0, 0), b = M(0, 1), c = M(1, 1);
    pyloc::project_psd2(a, b, c);
    const Eigen::SelfAdjointEigenSolver<Eigen::Matrix2d> solver(M);
    const Eigen::Matrix2d expected = solver.eigenvectors() * solver.eigenvalues().cwiseMax(0).asDiagonal() *
                                     solver.eigenvectors().transpose();
    EXPECT_NEAR(a, expected(0, 0), 1e-12);
    EXPECT_NEAR(b, expected(0, 1), 1e-12);
    EXPECT_NEAR(c, expected(1, 1), 1e-12);
  }
}

}  // namespace
