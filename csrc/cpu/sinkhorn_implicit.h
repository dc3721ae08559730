// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Implicit gradient of Sinkhorn's fixed point, at the last u and v: with r and c the row and column sums of
// P,
//   (diag(r) - P diag(1/c) P^T) x = u' - P (v' / c),   y = (v' - P^T x) / c,
//   A' = G - P (x_i + y_j),   (log a)' = r x,   (log b)' = c y,
// by conjugate gradients on s = sqrt(r) x. The matrix is singular along constants of x on what P connects;
// from s = 0 the iterates keep sum r x = 0 there, which is what the unrolled sum converges to.
#pragma once

#include "cpu/sinkhorn_adjoint.h"

PYLOC_NAMESPACE_BEGIN

class SinkhornImplicit {
 public:
  SinkhornImplicit(SinkhornItem& item, SinkhornAdjoint& adjoint) : it_(item), ad_(adjoint) {}

  // As SinkhornAdjoint::unrolled; the history is one pair of potentials.
  bool run(float* g, const SinkhornHistory& last) {
    if (!it_.build(false)) return false;
    ad_.load(0, last);
    std::memcpy(it_.u_, ad_.u_, sizeof(float) * std::size_t(ad_.rows_));
    std::memcpy(it_.v_, ad_.v_, sizeof(float) * std::size_t(ad_.ld_));
    ad_.first_slopes(g);
    build_plan();
    solve();
    finish(g);
    return true;
  }

 private:
  static constexpr int W = PackF::kWidth;
  static constexpr float kLeast = 1e-32f;  // sums below count as none: their reciprocals would overflow
  static constexpr int kMostSteps = 500;
  static constexpr double kResidual = 1e-12;  // squared, relative
  // A direction along which float32 cannot tell the matrix from a singular one.
  static constexpr double kCurvature = 3e-6;

  // P, relative to the largest mass, into the memory of A; its sums. The gradient is the same for any factor.
  void build_plan() {
    std::memset(columns_, 0, sizeof(float) * std::size_t(ad_.ld_));
    for (std::int64_t i = 0; i < round_up(it_.m_, kSweepRows); ++i) {
      float* p = it_.kernel_ + i * ad_.ld_;
      PackF total(0.0f);
      const PackF shift(it_.shift_), u(i < it_.m_ ? it_.u_[i] : kNothing);
      for (std::int64_t c = 0; c < ad_.ld_; c += W) {
        // At most the column's mass, also where scores are too large for float32 to tell apart.
        const PackF x = PackF::load(p + c) + u + PackF::load(it_.v_ + c);
        const PackF e = exp_close_(min_(x, PackF::load(it_.log_b_ + c) + 1.0f) - shift);
        total = total + e;
        e.store(p + c);
        (PackF::load(columns_ + c) + e).store(columns_ + c);
      }
      sums_[i] = reduce_add(total);
      inverse_root_[i] = sums_[i] > kLeast ? 1.0f / std::sqrt(sums_[i]) : 0.0f;
    }
    for (std::int64_t c = 0; c < ad_.ld_; ++c) columns_[c] = columns_[c] > kLeast ? 1.0f / columns_[c] : 0.0f;
  }

  // out (ld) = P^T (w * inverse root), then out / c, then to (m) = P out * inverse root.
  void across(const float* w, float* out) const {
    std::memset(out, 0, sizeof(float) * std::size_t(ad_.ld_));
    for (std::int64_t i = 0; i < it_.m_; i += kSweepRows) {
      float factor[kSweepRows];
      for (int r = 0; r < kSweepRows; ++r) factor[r] = w[i + r] * inverse_root_[i + r];
      add_rows(it_.kernel_ + i * ad_.ld_, ad_.ld_, factor, out);
    }
  }
  void back(const float* x, float* to) const {
    for (std::int64_t i = 0; i < it_.m_; i += kSweepRows) {
      row_products(it_.kernel_ + i * ad_.ld_, ad_.ld_, x, to + i);
      for (int r = 0; r < kSweepRows; ++r) to[i + r] *= inverse_root_[i + r];
    }
  }
  double inner(const float* a, const float* b) const {
    double sum = 0.0;
    for (std::int64_t i = 0; i < it_.m_; ++i) sum += double(a[i]) * double(b[i]);
    return sum;
  }

  void solve() {
    const std::int64_t m = round_up(it_.m_, kSweepRows);
    for (std::int64_t c = 0; c < ad_.ld_; ++c) column_[c] = ad_.d_v_[c] * columns_[c];
    back(column_, residual_);
    for (std::int64_t i = 0; i < m; ++i) {
      residual_[i] = inverse_root_[i] * ad_.d_u_[i] - residual_[i];
      solution_[i] = 0.0f;
    }
    remove_constant(residual_);
    std::memcpy(direction_, residual_, sizeof(float) * std::size_t(m));
    double square = inner(residual_, residual_);
    const double goal = kResidual * square;
    for (int step = 0; step < kMostSteps && square > goal; ++step) {
      across(direction_, column_);
      for (std::int64_t c = 0; c < ad_.ld_; ++c) column_[c] *= columns_[c];
      back(column_, image_);
      for (std::int64_t i = 0; i < m; ++i) image_[i] = direction_[i] - image_[i];
      const double curvature = inner(direction_, image_);
      if (!(curvature > kCurvature * inner(direction_, direction_))) break;
      const float length = float(square / curvature);
      for (std::int64_t i = 0; i < m; ++i) {
        solution_[i] += length * direction_[i];
        residual_[i] -= length * image_[i];
      }
      const double next = inner(residual_, residual_);
      const float keep = float(next / square);
      for (std::int64_t i = 0; i < m; ++i) direction_[i] = residual_[i] + keep * direction_[i];
      square = next;
    }
    remove_constant(solution_);
  }
  // What rounding puts along sqrt(r), on which the matrix is 0.
  void remove_constant(float* x) const {
    double part = 0.0, whole = 0.0;
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      const double root = double(sums_[i]) * double(inverse_root_[i]);
      part += root * double(x[i]);
      whole += root * root;
    }
    const double factor = whole > 0.0 ? part / whole : 0.0;
    for (std::int64_t i = 0; i < it_.m_; ++i)
      x[i] -= float(factor * double(sums_[i]) * double(inverse_root_[i]));
  }

  void finish(float* g) {
    across(solution_, column_);
    for (std::int64_t c = 0; c < ad_.ld_; ++c) {
      const float y = (ad_.d_v_[c] - column_[c]) * columns_[c];
      column_[c] = y;
      ad_.d_b_[c] = columns_[c] > 0.0f ? y / columns_[c] : 0.0f;
    }
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      const float x = solution_[i] * inverse_root_[i];
      ad_.d_a_[i] = sums_[i] * x;
      const float* p = it_.kernel_ + i * ad_.ld_;
      float* to = g + i * ad_.ld_;
      for (std::int64_t c = 0; c < ad_.ld_; c += W)
        (PackF::load(to + c) - PackF::load(p + c) * (PackF::load(column_ + c) + PackF(x))).store(to + c);
    }
  }

  SinkhornItem& it_;
  SinkhornAdjoint& ad_;
  // Vectors that the implicit gradient does not need otherwise.
  float *residual_ = ad_.z_, *image_ = ad_.first_, *direction_ = it_.alpha_, *solution_ = it_.before_;
  float *inverse_root_ = ad_.dot_, *sums_ = it_.dot_;
  float *columns_ = ad_.less_, *column_ = ad_.y_;
};

PYLOC_NAMESPACE_END
