// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Sinkhorn's iteration on one item: working memory, checks of the values, and the scaling domain.
//
//   SinkhornItem item(memory);  // SinkhornItem::floats(M, N) floats, 64-byte aligned
//   int status = item.start(input);            // masses, refused values
//   std::int64_t ran = item.solve(T, tolerance, history, threads);
//   item.u()[i], item.v()[j]; item.plan_row(i, out); item.log_plan_row(i, out);
//
// Everything inside is compact: the valid rows, then the dustbin row; the valid columns, then the dustbin's;
// hence the same bits for a padded item. Rows are padded to M4, columns to ld, with zeros.
//
// Scaling domain: K_ij = exp(A_ij - peak_i), alpha = a / (K beta), beta = b / (K^T alpha), and then
// u = log alpha + shift - peak, v = log beta, with masses taken relative to e^shift, their largest. What is
// lost is entries of K below 2^-126. Row and column sums stay exact to 1e-8 while, in every iteration,
//   largest beta * N <= 1e30 * smallest row sum of K beta,  largest alpha * M <= 1e30 * smallest column sum;
// otherwise, or where a sum vanishes for a row or column that has a finite score, the item starts again in
// the log domain (sinkhorn_log_domain.h).
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/row_softmax.h"
#include "cpu/score_rows.h"
#include "cpu/simd_math.h"
#include "cpu/sinkhorn.h"
#include "cpu/sinkhorn_sweep.h"
#include "runtime/thread_pool.h"

PYLOC_NAMESPACE_BEGIN

constexpr double kBalance = 1e-3;          // largest relative difference of the total masses
constexpr float kReach = 1e30f;            // of the range rule above
constexpr float kLogReach = 80.0f;         // masses smaller than e^-80 of the largest take the log domain
constexpr std::int64_t kSweepBlock = 128;  // rows whose column sums are added up on their own

struct SinkhornInput : ScoreRows {
  const float* log_row_mass;  // of the rows from 0 on, the dustbin's at dustbin_row
  std::int64_t dustbin_row;
  const float* log_column_mass;
  std::int64_t dustbin_column;
};

// Where the potentials of every iteration go, in the full layout, with -inf between the valid rows and the
// dustbin: u[t * u_stride + i], i < m, and the dustbin's at m. Null: nowhere.
struct SinkhornHistory {
  float *u, *v;
  std::int64_t u_stride, v_stride, m, n;
};

// The largest lane, by halves.
PYLOC_INLINE float largest_lane(PackF a) {
  typedef float Quad __attribute__((vector_size(16)));
  Quad part[PackF::kWidth / 4];
  std::memcpy(part, &a.raw, sizeof(part));
  for (int step = PackF::kWidth / 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) part[i] = part[i] > part[i + step] ? part[i] : part[i + step];
  const float x = part[0][0] > part[0][1] ? part[0][0] : part[0][1];
  const float y = part[0][2] > part[0][3] ? part[0][2] : part[0][3];
  return x > y ? x : y;
}

class SinkhornItem {
 public:
  static std::int64_t padded_rows(std::int64_t m) { return round_up(m, 16); }
  static std::int64_t padded_columns(std::int64_t n) { return round_up(n, kSweepColumns); }
  static std::int64_t blocks(std::int64_t m) { return (m + kSweepBlock - 1) / kSweepBlock; }
  static std::int64_t floats(std::int64_t m, std::int64_t n) {
    return padded_rows(m) * padded_columns(n) + 7 * padded_rows(m) + (5 + blocks(m)) * padded_columns(n);
  }

  explicit SinkhornItem(float* memory) : memory_(memory) {}

  // Sizes and masses; SinkhornStatus. The scores are looked at by `solve` and `build`.
  int start(const SinkhornInput& in) {
    in_ = in;
    m_ = in.rows + (in.dustbin_sides & 1);
    n_ = in.columns + (in.dustbin_sides >> 1);
    ld_ = padded_columns(n_);
    float* at = memory_;
    const auto take = [&](std::int64_t count) {
      float* here = at;
      at += count;
      return here;
    };
    kernel_ = take(padded_rows(m_) * ld_);
    float** by_row[] = {&peak_, &log_a_, &a_, &alpha_, &before_, &dot_, &u_};
    for (float** p : by_row) *p = take(padded_rows(m_));
    float** by_column[] = {&log_b_, &b_, &beta_, &v_, &sums_};
    for (float** p : by_column) *p = take(ld_);
    partial_ = take(blocks(m_) * ld_);
    scaling_ = true;
    const int dustbin_row = in.dustbin_sides & 1, dustbin_column = in.dustbin_sides >> 1;
    copy_masses(in.log_row_mass, in.rows, dustbin_row ? in.log_row_mass + in.dustbin_row : nullptr,
                padded_rows(m_), log_a_);
    copy_masses(in.log_column_mass, in.columns,
                dustbin_column ? in.log_column_mass + in.dustbin_column : nullptr, ld_, log_b_);
    if (in.dustbin_sides && !(in.dustbin < HUGE_VALF)) return cpu::kSinkhornDustbin;
    return weigh();
  }

  std::int64_t rows() const { return m_; }     // with the dustbin
  std::int64_t columns() const { return n_; }  // with the dustbin
  std::int64_t ld() const { return ld_; }
  bool scaling() const { return scaling_; }
  const float* u() const { return u_; }  // -inf for what carries nothing
  const float* v() const { return v_; }

  // All iterations; the number that ran, or -1 when a score is NaN or +infinity.
  std::int64_t solve(std::int64_t iterations, float tolerance, const SinkhornHistory& history, int threads);

  void keep_last(const SinkhornHistory& history) const { keep(0, history); }

  // K (scaling) or A itself (log domain); false when a score is NaN or +infinity.
  bool build(bool scaling) {
    scaling_ = scaling;
    bool good = true;
    for (std::int64_t i = 0; i < round_up(m_, kSweepRows); ++i) good &= build_row(i);
    return good;
  }

  // P_ij of one compact row after `solve`, from K where that is at hand; `out` has ld floats, those beyond
  // the columns 0.
  void plan_row(std::int64_t i, float* out) const {
    constexpr int W = PackF::kWidth;
    if (scaling_) {
      const PackF factor(alpha_[i] * std::exp(shift_));
      const float* k = kernel_ + i * ld_;
      for (std::int64_t c = 0; c < ld_; c += W)
        (factor * PackF::load(k + c) * PackF::load(beta_ + c)).store(out + c);
      return;
    }
    log_plan_row(i, out);
    for (std::int64_t c = 0; c < ld_; c += W) exp_close_(PackF::load(out + c)).store(out + c);
  }
  // log P_ij; `out` has ld floats, those beyond the columns -inf.
  void log_plan_row(std::int64_t i, float* out) const {
    in_.read(i, ld_, out);
    const PackF u(u_[i]);
    for (std::int64_t c = 0; c < ld_; c += PackF::kWidth)
      (PackF::load(out + c) + u + PackF::load(v_ + c)).store(out + c);
  }
  // The same into `columns()` floats anywhere; `scratch` has ld floats.
  void write_log_plan_row(std::int64_t i, float* scratch, float* out) const {
    constexpr int W = PackF::kWidth;
    ScoreRow row;
    in_.view(i, ld_, scratch, row);
    const PackF u(u_[i]);
    const std::int64_t whole = n_ / W * W;
    std::int64_t c = 0;
    for (; c < row.whole && c < whole; c += W)
      (PackF::load(row.from + c) + u + PackF::load(v_ + c)).store(out + c);
    for (; c < n_; c += W)
      (row.at(c) + u + PackF::load(v_ + c)).store_partial(out + c, int(n_ - c < W ? n_ - c : W));
  }

 private:
  friend class SinkhornLogDomain;
  friend class SinkhornAdjoint;
  friend class SinkhornImplicit;

  static void copy_masses(const float* from, std::int64_t count, const float* dustbin, std::int64_t padded,
                          float* to) {
    std::memcpy(to, from, sizeof(float) * std::size_t(count));
    if (dustbin) to[count++] = *dustbin;
    for (; count < padded; ++count) to[count] = kNothing;
  }

  // Masses relative to the largest, and whether they balance.
  int weigh() {
    const float top_a = largest_value(log_a_, padded_rows(m_)), top_b = largest_value(log_b_, ld_);
    shift_ = top_a > top_b ? top_a : top_b;
    if (refused(log_a_, padded_rows(m_))) return cpu::kSinkhornRowMass;
    if (refused(log_b_, ld_)) return cpu::kSinkhornColumnMass;
    if (shift_ == kNothing) shift_ = 0.0f;
    const double total_a = weights(log_a_, padded_rows(m_), a_), total_b = weights(log_b_, ld_, b_);
    const double larger = total_a > total_b ? total_a : total_b;
    return std::fabs(total_a - total_b) > kBalance * larger ? cpu::kSinkhornBalance : cpu::kSinkhornDone;
  }
  static bool refused(const float* x, std::int64_t count) {
    PackMask<float> bad = PackF(0.0f) > 0.0f;
    for (std::int64_t i = 0; i < count; i += PackF::kWidth)
      bad = mask_or(bad, mask_not(PackF::load(x + i) < HUGE_VALF));
    return any(bad);
  }
  double weights(const float* log_mass, std::int64_t count, float* mass) {
    PackF total(0.0f);
    PackMask<float> beyond = PackF(0.0f) > 0.0f;
    for (std::int64_t i = 0; i < count; i += PackF::kWidth) {
      const PackF x = PackF::load(log_mass + i) - shift_, e = exp_close_(x);
      beyond = mask_or(beyond, mask_and(x<-kLogReach, x> kNothing));
      total = total + e;
      e.store(mass + i);
    }
    if (any(beyond)) scaling_ = false;
    return double(reduce_add(total));
  }

  bool build_row(std::int64_t i) {
    constexpr int W = PackF::kWidth;
    float* k = kernel_ + i * ld_;
    if (i >= m_) {
      for (std::int64_t c = 0; c < ld_; c += W) PackF(scaling_ ? 0.0f : kNothing).store(k + c);
      peak_[i] = 0.0f;
      return true;
    }
    ScoreRow row;
    in_.view(i, ld_, k, row);
    PackF top[4], total[4];  // the sum of a good row is below infinity
    for (int q = 0; q < 4; ++q) top[q] = PackF(kNothing), total[q] = PackF(0.0f);
    std::int64_t c = 0;
    for (; c + 4 * W <= row.whole; c += 4 * W)
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const PackF x = PackF::load(row.from + c + q * W);
        top[q] = max_(x, top[q]), total[q] = total[q] + x;
      }
    for (; c < ld_; c += W) top[0] = max_(row.at(c), top[0]), total[0] = total[0] + row.at(c);
    total[0] = (total[0] + total[1]) + (total[2] + total[3]);
    if (any(mask_not(total[0] < HUGE_VALF)) && row.has_refused(ld_)) return false;
    const float peak = largest_lane(max_(max_(top[0], top[1]), max_(top[2], top[3])));
    peak_[i] = peak > kNothing ? peak : 0.0f;
    const PackF p(peak_[i]);
    if (scaling_) {
      for (c = 0; c < row.whole; c += W) exp_below_(PackF::load(row.from + c) - p).store(k + c);
      for (; c < ld_; c += W) exp_below_(row.at(c) - p).store(k + c);
    } else {
      for (c = 0; c < ld_; c += W) row.at(c).store(k + c);
    }
    return true;
  }

  // For every block of rows, in an order that alternates so that what was read last is read first.
  template <class Body>
  void for_blocks(std::int64_t t, int threads, const Body& body) const {
    const std::int64_t count = blocks(m_);
    const auto at = [&](std::int64_t b) { body(t % 2 ? count - 1 - b : b); };
    if (threads > 1 && count > 1) return runtime::parallel_for(count, threads, at);
    for (std::int64_t b = 0; b < count; ++b) at(b);
  }
  std::int64_t block_end(std::int64_t b) const {
    const std::int64_t end = (b + 1) * kSweepBlock;
    return end < m_ ? end : round_up(m_, kSweepRows);
  }
  float* block_sums(float* partial, std::int64_t b) const {
    float* sums = partial + b * ld_;
    std::memset(sums, 0, sizeof(float) * std::size_t(ld_));
    return sums;
  }
  // The blocks' column sums at c, in order.
  PackF column_sum(const float* partial, std::int64_t c) const {
    PackF total = PackF::load(partial + c);
    for (std::int64_t b = 1; b < blocks(m_); ++b) total = total + PackF::load(partial + b * ld_ + c);
    return total;
  }

  std::int64_t iterate(std::int64_t iterations, float tolerance, const SinkhornHistory& history, int threads);
  bool update_rows(std::int64_t t, int threads);
  bool rows_in_reach(bool first);
  bool update_columns(bool first);
  bool settled(float tolerance) const;
  void take_logs();
  void exchange_alpha() {
    float* previous = alpha_;
    alpha_ = before_;
    before_ = previous;
  }
  void keep(std::int64_t t, const SinkhornHistory& history) const;
  void repeat(std::int64_t ran, std::int64_t iterations, const SinkhornHistory& history) const;
  // Whether a finite score meets mass on the other side.
  bool row_carries(std::int64_t i, float* scratch) const;
  bool column_carries(std::int64_t j) const;

  float* memory_;
  SinkhornInput in_{};
  std::int64_t m_ = 0, n_ = 0, ld_ = 0;
  float shift_ = 0.0f, top_alpha_ = 0.0f, top_beta_ = 1.0f;
  bool scaling_ = true;
  float *kernel_ = nullptr, *peak_ = nullptr, *log_a_ = nullptr, *a_ = nullptr, *alpha_ = nullptr;
  float *before_ = nullptr, *dot_ = nullptr, *u_ = nullptr;
  float *log_b_ = nullptr, *b_ = nullptr, *beta_ = nullptr, *v_ = nullptr;
  float *sums_ = nullptr, *partial_ = nullptr;
};

PYLOC_NAMESPACE_END

#include "cpu/sinkhorn_log_domain.h"
#include "cpu/sinkhorn_scaling.h"
