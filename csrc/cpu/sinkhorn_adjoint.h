// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Gradients of sinkhorn_item.h from the slope G of log P, zero where P is.
//
//   SinkhornAdjoint adjoint(item, memory);     // floats(M, N, T, threads), 64-byte aligned; after item.start
//   bool good = adjoint.unrolled(G, ran, {u, v, ...}, threads) or adjoint.implicit(G, {u, v, ...});
//   G (M4 rows of item.ld() floats, padding zero) now holds the gradient of A; row_mass(), column_mass().
//
// Unrolled, t from the last iteration to the first, u' and v' the slopes of u and v, v0 the v before:
//   u' -= Q v',  (log a)' += u',  (log b)' += v',  v0' = -R^T u',  A' -= Q v' + R u',
//   Q = diag(alpha) K diag(1 / K^T alpha),  R = diag(1 / K beta0) K diag(beta0).
// The sweeps give the vectors; all terms of A' are K times a matrix of rank 2 T, which is one product:
//   A' = G - K * sum over t of alpha (v' / K^T alpha)^T + (u' / K beta0) beta0^T.
// Out of the reach of the scaling domain the same sums are taken in the log domain.
#pragma once

#include "cpu/sinkhorn_item.h"
#include "cpu/slot_pool.h"
#include "cpu/tile_product.h"

PYLOC_NAMESPACE_BEGIN

class SinkhornAdjoint {
 public:
  static std::int64_t floats(std::int64_t m, std::int64_t n, std::int64_t iterations, int threads = 1) {
    const std::int64_t rows = SinkhornItem::padded_rows(m), ld = SinkhornItem::padded_columns(n);
    return 2 * iterations * (rows + ld) + 6 * rows + (7 + SinkhornItem::blocks(m)) * ld +
           packed_floats(n, iterations, kPanelColumns) + threads * slot_floats(iterations);
  }

  SinkhornAdjoint(SinkhornItem& item, float* memory, std::int64_t iterations)
      : it_(item), rows_(SinkhornItem::padded_rows(item.m_)), ld_(item.ld_), depth_(2 * iterations) {
    const auto take = [&](std::int64_t count) {
      float* here = memory;
      memory += count;
      return here;
    };
    row_factors_ = take(depth_ * rows_);
    column_factors_ = take(depth_ * ld_);
    float** by_row[] = {&u_, &d_u_, &d_a_, &z_, &first_, &dot_};
    for (float** p : by_row) *p = take(rows_);
    float** by_column[] = {&v_, &d_v_, &d_b_, &y_, &before_, &less_, &sums_};
    for (float** p : by_column) *p = take(ld_);
    column_partial_ = take(SinkhornItem::blocks(item.m_) * ld_);
    packed_columns_ = take(packed_floats(item.n_, iterations, kPanelColumns));
    slots_ = memory;
  }

  // False when a score is NaN or +infinity. `solved`: the item holds what `solve` left.
  bool unrolled(float* g, std::int64_t ran, const SinkhornHistory& history, int threads,
                bool solved = false) {
    bool done = false;
    if (it_.scaling_) {
      if (!solved && !it_.build(true)) return false;
      done = sweep_back(g, ran, history, threads);
      if (done) subtract_product(g, ran, threads);
    }
    if (done) return true;
    if (!it_.build(false)) return false;
    log_domain(g, ran, history);
    return true;
  }

  const float* row_mass() const { return d_a_; }
  const float* column_mass() const { return d_b_; }

 private:
  friend class SinkhornImplicit;
  static constexpr int W = PackF::kWidth;
  static constexpr TileOperand kKind = TileOperand::kFloat32;
  static constexpr std::int64_t kTileFloats = 64 * kTileCells;  // kTileRows <= 64, in whole panels
  static std::int64_t packed_floats(std::int64_t count, std::int64_t iterations, int panel) {
    return round_up(round_up(count, panel) * 2 * iterations, 16);
  }
  // A thread's tile of the product, and its packed rows.
  static std::int64_t slot_floats(std::int64_t iterations) {
    return kTileFloats + packed_floats(kTileRows, iterations, kPanelRows);
  }
  PYLOC_INLINE static PackMask<float> alive(PackF potential) { return potential > kNothing; }

  // Potentials of one iteration, compact, the padding -inf.
  static void gather(const float* from, std::int64_t valid, std::int64_t size, bool dustbin,
                     std::int64_t padded, float* to) {
    std::memcpy(to, from, sizeof(float) * std::size_t(valid));
    if (dustbin) to[valid++] = from[size];
    for (; valid < padded; ++valid) to[valid] = kNothing;
  }
  // v of iteration t, or that before the first one.
  void load_columns(std::int64_t t, const SinkhornHistory& h, float* v) const {
    if (t >= 0) {
      gather(h.v + t * h.v_stride, it_.in_.columns, h.n, it_.in_.dustbin_sides >> 1, ld_, v);
    } else {
      for (std::int64_t c = 0; c < ld_; ++c) v[c] = it_.log_b_[c] > kNothing ? 0.0f : kNothing;
    }
  }
  void load(std::int64_t t, const SinkhornHistory& h) {
    gather(h.u + t * h.u_stride, it_.in_.rows, h.m, it_.in_.dustbin_sides & 1, rows_, u_);
    load_columns(t, h, v_);
    load_columns(t - 1, h, before_);
  }

  // d_u, d_v = row and column sums of g.
  void first_slopes(const float* g) {
    std::memset(d_v_, 0, sizeof(float) * std::size_t(ld_));
    std::memset(d_a_, 0, sizeof(float) * std::size_t(rows_));
    std::memset(d_b_, 0, sizeof(float) * std::size_t(ld_));
    std::memset(d_u_, 0, sizeof(float) * std::size_t(rows_));
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      PackF sum(0.0f);
      for (std::int64_t c = 0; c < ld_; c += W) {
        const PackF x = PackF::load(g + i * ld_ + c);
        sum = sum + x;
        (PackF::load(d_v_ + c) + x).store(d_v_ + c);
      }
      d_u_[i] = reduce_add(sum);
    }
  }

  // exp(x) where a potential is finite; `top` and `least` of what it meets.
  PYLOC_INLINE static PackF scale(PackF x, PackMask<float> some, PackF& top, PackF& least) {
    const PackF held = select(some, x, PackF(0.0f)), e = select(some, exp_close_(held), PackF(0.0f));
    least = min_(held, least);
    top = max_(e, top);
    return e;
  }

  // alpha of an iteration and beta of the one before; false when they are out of reach.
  bool load_alpha(std::int64_t t, const SinkhornHistory& h, float* alpha) {
    PackF top(0.0f), least(0.0f);
    gather(h.u + t * h.u_stride, it_.in_.rows, h.m, it_.in_.dustbin_sides & 1, rows_, u_);
    for (std::int64_t i = 0; i < rows_; i += W) {
      const PackF u = PackF::load(u_ + i);
      scale(u + PackF::load(it_.peak_ + i) - PackF(it_.shift_), alive(u), top, least).store(alpha + i);
    }
    top_alpha_ = reduce_max(top);
    return -reduce_max(-least) > -87.0f;
  }
  bool load_beta(std::int64_t t, const SinkhornHistory& h, float* beta) {
    PackF top(0.0f), least(0.0f);
    load_columns(t, h, v_);
    for (std::int64_t c = 0; c < ld_; c += W)
      scale(PackF::load(v_ + c), alive(PackF::load(v_ + c)), top, least).store(beta + c);
    top_beta_ = reduce_max(top);
    return -reduce_max(-least) > -87.0f;
  }
  static bool in_reach(float top, std::int64_t count, float least) {
    return top * float(count) <= kReach * least;
  }

  // y = v' / (K^T alpha), (log b)' += v'; false when the column sums are out of reach.
  bool divide_columns(float* y) {
    PackF least(HUGE_VALF);
    for (std::int64_t c = 0; c < ld_; c += W) {
      const PackF d = PackF::load(d_v_ + c), sum = it_.column_sum(column_partial_, c);
      const PackMask<float> some = sum > 0.0f;
      least = min_(select(some, sum, PackF(HUGE_VALF)), least);
      (PackF::load(d_b_ + c) + d).store(d_b_ + c);
      select(some, d / sum, PackF(0.0f)).store(y + c);
    }
    return in_reach(top_alpha_, it_.m_, -reduce_max(-least));
  }

  // The blocks' column sums of alpha K: the denominators of Q, taken anew so that its columns add up to 1 to
  // the last bit, which the logarithms in the history do not give.
  void weigh_columns(const float* alpha, int threads) {
    it_.for_blocks(0, threads, [&](std::int64_t b) {
      float* sums = it_.block_sums(column_partial_, b);
      for (std::int64_t i = b * kSweepBlock; i < it_.block_end(b); i += kSweepRows)
        add_rows(it_.kernel_ + i * ld_, ld_, alpha + i, sums);
    });
  }

  bool sweep_back(const float* g, std::int64_t ran, const SinkhornHistory& history, int threads) {
    first_slopes(g);
    float* alpha = row_factors_ + 2 * (ran - 1) * rows_;
    if (!load_alpha(ran - 1, history, alpha)) return false;
    weigh_columns(alpha, threads);
    for (std::int64_t t = ran - 1; t >= 0; --t) {
      alpha = row_factors_ + 2 * t * rows_;
      float *z = alpha + rows_, *y = column_factors_ + 2 * t * ld_, *beta = y + ld_;
      float* alpha_before = t > 0 ? alpha - 2 * rows_ : u_;
      if (!divide_columns(y) || !load_beta(t - 1, history, beta)) return false;
      if (t > 0 && !load_alpha(t - 1, history, alpha_before)) return false;
      sweep({alpha, alpha_before, z, y, beta}, t, threads);
      float least = HUGE_VALF;
      for (std::int64_t i = 0; i < it_.m_; ++i) least = dot_[i] > 0.0f && dot_[i] < least ? dot_[i] : least;
      if (!in_reach(top_beta_, it_.n_, least)) return false;
      for (std::int64_t i = round_up(it_.m_, kSweepRows); i < rows_; ++i) z[i] = 0.0f;
      for (std::int64_t c = 0; c < ld_; c += W)
        (PackF(0.0f) - PackF::load(beta + c) * it_.column_sum(it_.partial_, c)).store(d_v_ + c);
    }
    return true;
  }

  struct Vectors {
    const float *alpha, *alpha_before;
    float* z;
    const float *y, *beta;
  };
  // dot = K beta0 (the denominators of R), u' = d_u - alpha K y, z = u' / dot; column sums of z K and alpha0
  // K.
  void sweep(const Vectors& x, std::int64_t t, int threads) {
    it_.for_blocks(t, threads, [&](std::int64_t b) {
      float* sums[2] = {it_.block_sums(it_.partial_, b), it_.block_sums(column_partial_, b)};
      for (std::int64_t i = b * kSweepBlock; i < it_.block_end(b); i += kSweepRows) {
        const float* vectors[2] = {x.y, x.beta};
        float dot[2][kSweepRows];
        row_products<2>(it_.kernel_ + i * ld_, ld_, vectors, dot);
        for (int r = 0; r < kSweepRows; ++r) {
          const float d = d_u_[i + r] - x.alpha[i + r] * dot[0][r];
          d_u_[i + r] = 0.0f;  // the slope of log P belongs to the last u alone
          d_a_[i + r] += d;
          dot_[i + r] = dot[1][r];
          x.z[i + r] = dot[1][r] > 0.0f ? d / dot[1][r] : 0.0f;
        }
        const float* factors[2] = {x.z + i, x.alpha_before + i};
        add_rows<2>(it_.kernel_ + i * ld_, ld_, factors, sums, it_.kernel_ + (i + kSweepRows) * ld_);
      }
    });
  }

  // g -= K * (row factors)^T (column factors).
  void subtract_product(float* g, std::int64_t ran, int threads) {
    const std::int64_t chunks = (it_.m_ + kTileRows - 1) / kTileRows;
    SlotPool pool(threads);
    for (std::int64_t c0 = 0; c0 < it_.n_; c0 += kTileCells) {
      const std::int64_t columns = it_.n_ - c0 < kTileCells ? it_.n_ - c0 : kTileCells;
      pack_columns(kKind, {column_factors_, kFloat32, 1, ld_}, c0, columns, 2 * ran, packed_columns_);
      const auto one = [&](std::int64_t chunk) {
        const int slot = pool.acquire();
        subtract_tile(g, ran, chunk * kTileRows, c0, columns, slots_ + slot * slot_floats(depth_ / 2));
        pool.release(slot);
      };
      if (threads > 1) {
        runtime::parallel_for(chunks, threads, one);
      } else {
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) one(chunk);
      }
    }
  }
  void subtract_tile(float* g, std::int64_t ran, std::int64_t i0, std::int64_t c0, std::int64_t columns,
                     float* tile) {
    float* packed = tile + kTileFloats;
    const std::int64_t rows = it_.m_ - i0 < kTileRows ? it_.m_ - i0 : kTileRows;
    pack_rows(kKind, {row_factors_, kFloat32, 1, rows_}, i0, rows, 2 * ran, packed);
    tile_product(kKind, packed, rows, packed_columns_, columns, 2 * ran, tile, kTileCells);
    for (std::int64_t i = 0; i < rows; ++i) {
      const float *k = it_.kernel_ + (i0 + i) * ld_ + c0, *sum = tile + i * kTileCells;
      float* to = g + (i0 + i) * ld_ + c0;
      for (std::int64_t c = 0; c < round_up(columns, W); c += W)
        (PackF::load(to + c) - PackF::load(k + c) * PackF::load(sum + c)).store(to + c);
    }
  }

  // The same iteration by iteration; A lies in the memory of K. The weights are divided by their sums here,
  // too.
  void log_domain(float* g, std::int64_t ran, const SinkhornHistory& history) {
    first_slopes(g);
    for (std::int64_t t = ran - 1; t >= 0; --t) {
      load(t, history);
      column_weights();
      for (std::int64_t c = 0; c < ld_; c += W) {
        const PackF d = PackF::load(d_v_ + c), sum = PackF::load(sums_ + c);
        (PackF::load(d_b_ + c) + d).store(d_b_ + c);
        select(sum > 0.0f, d / sum, PackF(0.0f)).store(y_ + c);
        PackF(0.0f).store(sums_ + c);
      }
      for (std::int64_t i = 0; i < it_.m_; ++i) {
        if (!(u_[i] > kNothing)) continue;
        d_u_[i] = log_domain_row(i, it_.kernel_ + i * ld_, g + i * ld_);
        d_a_[i] += d_u_[i];
        d_u_[i] = 0.0f;
      }
      for (std::int64_t c = 0; c < ld_; ++c) d_v_[c] = -sums_[c];
    }
  }

  // A weight is at most 1; scores too large for float32 to tell apart must not make it infinite.
  PYLOC_INLINE static PackF weight(PackF x) { return exp_close_(min_(x, PackF(1.0f))); }

  // less = v - log b, and the sums over rows of exp(A + u + less), near 1.
  void column_weights() {
    for (std::int64_t c = 0; c < ld_; c += W) {
      const PackF v = PackF::load(v_ + c);
      select(alive(v), v - PackF::load(it_.log_b_ + c), PackF(kNothing)).store(less_ + c);
      PackF(0.0f).store(sums_ + c);
    }
    for (std::int64_t i = 0; i < it_.m_; ++i) {
      const float* a = it_.kernel_ + i * ld_;
      const PackF u(u_[i]);
      for (std::int64_t c = 0; c < ld_; c += W)
        (PackF::load(sums_ + c) + weight(PackF::load(a + c) + u + PackF::load(less_ + c))).store(sums_ + c);
    }
  }

  // u' of row i; its part of A' and of v0'.
  float log_domain_row(std::int64_t i, const float* a, float* g) {
    const PackF u(u_[i]), less(u_[i] - it_.log_a_[i]);
    PackF sum(0.0f), total(0.0f);
    for (std::int64_t c = 0; c < ld_; c += W) {
      const PackF x = PackF::load(a + c);
      const PackF q = weight(x + u + PackF::load(less_ + c)) * PackF::load(y_ + c);
      sum = sum + q;
      total = total + weight(x + less + PackF::load(before_ + c));
      (PackF::load(g + c) - q).store(g + c);
    }
    const float slope = d_u_[i] - reduce_add(sum), all = reduce_add(total);
    const PackF factor(all > 0.0f ? slope / all : 0.0f);
    for (std::int64_t c = 0; c < ld_; c += W) {
      const PackF r = weight(PackF::load(a + c) + less + PackF::load(before_ + c)) * factor;
      (PackF::load(g + c) - r).store(g + c);
      (PackF::load(sums_ + c) + r).store(sums_ + c);
    }
    return slope;
  }

  SinkhornItem& it_;
  std::int64_t rows_, ld_, depth_;
  float top_alpha_ = 0.0f, top_beta_ = 0.0f;
  float *row_factors_, *column_factors_, *u_, *d_u_, *d_a_, *z_, *first_, *dot_;
  float *v_, *d_v_, *d_b_, *y_, *before_, *less_, *sums_, *column_partial_;
  float *packed_columns_, *slots_;
};

PYLOC_NAMESPACE_END
