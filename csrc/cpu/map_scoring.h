// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Bilinear gains (Eq. 4.6) of many poses against one loss map at a time, float32, one pose per lane.
//
// The live cells of a map are scattered into a small dense buffer that stays in the first-level cache,
// all poses of a block read it, and the same cells are cleared again: memory never holds more than one
// dense map per thread. A cell of the buffer is 32 bits, its own gain (low half) beside that of the cell
// below (high half), both as shares of the map's peak in 1 / 65535: one 64-bit load brings all four
// taps of a bilinear read. A border of one zero cell makes clamping enough outside the map.
#pragma once

#include "cpu/simd.h"
#include "pyloc/camera.h"
#include "pyloc/loss_map.h"
#include "pyloc/pose_scoring.h"
#include "pyloc/se3.h"

PYLOC_NAMESPACE_BEGIN

// M poses as a structure of arrays, padded to whole packs.
struct PoseBlock {
  int count = 0;
  int stride = 0;
  float* rows = nullptr;  // (12, stride): R row by row with t' behind each row
  float* gain = nullptr;  // (stride)
  int* id = nullptr;      // (stride): the caller's number of each pose

  PYLOC_INLINE void set(int i, const Pose<double>& cam_from_world, const WorldFrame& frame,
                        const Camera<float>& cam) {
    const Vec3<double> t = frame.translation(cam_from_world);
    const double shift[3] = {t.x, t.y, t.z};
    for (int r = 0; r < 3; ++r) {
      // Without distortion the focal lengths are part of the first two rows.
      const double f = cam.kind != kPinhole || r == 2 ? 1.0 : double(r == 0 ? cam.fx : cam.fy);
      for (int c = 0; c < 3; ++c) rows[(4 * r + c) * stride + i] = float(f * cam_from_world.R(r, c));
      rows[(4 * r + 3) * stride + i] = float(f * shift[r]);
    }
    gain[i] = 0.0f;
    id[i] = i;
  }
  // Zero poses fill the last pack: their depth is 0, which counts as behind the camera.
  PYLOC_INLINE void pad() {
    for (int i = count; i % PackF::kWidth != 0; ++i) {
      for (int k = 0; k < 12; ++k) rows[k * stride + i] = 0.0f;
      gain[i] = 0.0f;
    }
  }
  PYLOC_INLINE void move(int from, int to) {
    for (int k = 0; k < 12; ++k) rows[k * stride + to] = rows[k * stride + from];
    gain[to] = gain[from];
    id[to] = id[from];
  }
};

// One map as the scoring loop reads it.
struct DenseMap {
  std::int32_t* cells = nullptr;  // ((h + 2), stride): see the top of the file
  int stride = 0;                 // w + 2
  int w = 0, h = 0;
  float x0 = 0.0f, y0 = 0.0f;  // map point of the first cell

  static std::size_t cell_count(int w, int h) { return std::size_t(w + 2) * std::size_t(h + 2) + 2; }

  // offset = (y - y0 + 1) * stride + (x - x0 + 1) of each live cell.
  PYLOC_INLINE void fill(const std::int32_t* offset, const std::uint16_t* level, std::int64_t n) {
    std::uint16_t* half = reinterpret_cast<std::uint16_t*>(cells);
    for (std::int64_t i = 0; i < n; ++i) {
      half[2 * std::int64_t(offset[i]) + kLow] = level[i];
      half[2 * std::int64_t(offset[i] - stride) + kHigh] = level[i];
    }
  }
  PYLOC_INLINE void clear(const std::int32_t* offset, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      cells[offset[i]] = 0;
      cells[offset[i] - stride] = 0;
    }
  }

 private:
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  static constexpr int kLow = 1, kHigh = 0;
#else
  static constexpr int kLow = 0, kHigh = 1;
#endif
};

// Cells index and index + 1 of every lane, by one 64-bit load per lane.
PYLOC_INLINE void gather_pairs(const std::int32_t* cells, PackI index, PackI& left, PackI& right) {
#if defined(__AVX512F__)
  const __m512i i = (__m512i)index.raw;
  const __m512i a = _mm512_i32gather_epi64(_mm512_castsi512_si256(i), cells, 4);
  const __m512i b = _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(i, 1), cells, 4);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  left.raw = (PackI::Raw)_mm512_permutex2var_epi32(a, even, b);
  right.raw = (PackI::Raw)_mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
#elif defined(__AVX2__)
  const __m256i i = (__m256i)index.raw;
  const long long* base = reinterpret_cast<const long long*>(cells);
  const __m256 a = _mm256_castsi256_ps(_mm256_i32gather_epi64(base, _mm256_castsi256_si128(i), 4));
  const __m256 b = _mm256_castsi256_ps(_mm256_i32gather_epi64(base, _mm256_extracti128_si256(i, 1), 4));
  // Each 128-bit half holds two pairs of a and two of b: bring the lanes back into order.
  left.raw = (PackI::Raw)_mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xD8);
  right.raw = (PackI::Raw)_mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD)), 0xD8);
#else
  for (int i = 0; i < PackI::kWidth; ++i) {
    left.raw[i] = cells[index.raw[i]];
    right.raw[i] = cells[index.raw[i] + 1];
  }
#endif
}

// atan2(r, z) for r >= 0 and z > 0, absolute error below 1e-6: a degree 15 Chebyshev fit of atan on [0, 1].
PYLOC_INLINE PackF angle_to_axis(PackF r, PackF z) {
  const PackMask<float> steep = r > z;
  const PackF q = select(steep, z, r) / select(steep, r, z), s = q * q;
  PackF p(-0.00466877331f);
  p = fma_(p, s, PackF(0.0241661895f));
  p = fma_(p, s, PackF(-0.0593671008f));
  p = fma_(p, s, PackF(0.099060969f));
  p = fma_(p, s, PackF(-0.14016585f));
  p = fma_(p, s, PackF(0.199692354f));
  p = fma_(p, s, PackF(-0.333319597f));
  p = fma_(p, s, PackF(0.999999898f));
  const PackF a = q * p;
  return select(steep, PackF(1.57079633f) - a, a);
}

// Map coordinates of the projection; lanes with depth <= 0 or no number go to (-1, -1), which reads zero.
template <int Kind>
PYLOC_INLINE void project_lanes(const Camera<float>& cam, PackF X, PackF Y, PackF Z, PackF& x, PackF& y) {
  const PackF iz = PackF(1.0f) / Z;
  if constexpr (Kind == kPinhole) {
    x = fma_(X, iz, PackF(cam.cx));
    y = fma_(Y, iz, PackF(cam.cy));
  } else if constexpr (Kind == kOpenCV) {
    PackF d[8], J[4], u, v;
    for (int k = 0; k < 8; ++k) d[k] = PackF(cam.d[k]);
    distort_opencv(d, X * iz, Y * iz, u, v, J);
    x = fma_(PackF(cam.fx), u, PackF(cam.cx));
    y = fma_(PackF(cam.fy), v, PackF(cam.cy));
  } else {
    const PackF r = sqrt_(X * X + Y * Y), theta = angle_to_axis(r, Z), t2 = theta * theta;
    PackF poly(cam.d[3]);
    for (int k = 2; k >= 0; --k) poly = fma_(poly, t2, PackF(cam.d[k]));
    poly = fma_(poly, t2, PackF(1.0f));
    const PackF s = select(r > 1e-12f, theta * poly / r, iz);
    x = fma_(PackF(cam.fx) * s, X, PackF(cam.cx));
    y = fma_(PackF(cam.fy) * s, Y, PackF(cam.cy));
  }
}

// gain[i] += scale * bilinear level of pose i, for all poses of the block; X in the block's world frame.
template <int Kind>
inline void score_map(const DenseMap& map, const float* X, float scale, const Camera<float>& cam,
                      const PoseBlock& block) {
  const PackF x3(X[0]), y3(X[1]), z3(X[2]);
  const PackF right(float(map.w + 1)), bottom(float(map.h + 1)), zero(0.0f);
  const PackF factor(scale);
  Camera<float> shifted = cam;  // to coordinates of the buffer with its border
  shifted.cx += 1.0f - map.x0;
  shifted.cy += 1.0f - map.y0;
  const PackI stride(map.stride), low(0xffff);
  for (int i = 0; i < block.count; i += PackF::kWidth) {
    const float* row = block.rows + i;
    const auto dot_row = [&](int r) {
      const float* p = row + 4 * r * block.stride;
      const PackF tail = fma_(PackF::load(p + 2 * block.stride), z3, PackF::load(p + 3 * block.stride));
      return fma_(PackF::load(p), x3, fma_(PackF::load(p + block.stride), y3, tail));
    };
    const PackF Z = dot_row(2);
    PackF x, y;
    project_lanes<Kind>(shifted, dot_row(0), dot_row(1), Z, x, y);
    // max_ comes first and turns NaN into 0, the zero border.
    x = min_(max_(select(Z > 0.0f, x, zero), zero), right);
    y = min_(max_(y, zero), bottom);
    const PackI ix = to_int(x), iy = to_int(y);
    const PackF ax = x - to_float(ix), ay = y - to_float(iy);
    PackI l, r;
    gather_pairs(map.cells, iy * stride + ix, l, r);
    const PackF l0 = to_float(bit_and(l, low)), r0 = to_float(bit_and(r, low));
    const PackF l1 = to_float(bit_and(shift_right(l, 16), low));
    const PackF r1 = to_float(bit_and(shift_right(r, 16), low));
    const PackF left = fma_(ay, l1 - l0, l0), far = fma_(ay, r1 - r0, r0);
    fma_(factor, fma_(ax, far - left, left), PackF::load(block.gain + i)).store(block.gain + i);
  }
}

PYLOC_NAMESPACE_END
