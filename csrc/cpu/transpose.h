// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Square transposes in registers: between arrays of structures in memory and one structure member per pack.
#pragma once

#include <utility>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

// Lanes of a and b in turn, from the first (kHigh = 0) or second half of every group of G lanes.
template <int G, int kHigh, class T, int... I>
PYLOC_INLINE Pack<T> interleave(Pack<T> a, Pack<T> b, std::integer_sequence<int, I...>) {
  return Pack<T>(__builtin_shufflevector(
      a.raw, b.raw, ((I / G) * G + (kHigh * G + I % G) / 2 + (I % 2 ? Pack<T>::kWidth : 0))...));
}

// Each group of G lanes of the G packs is a G x G matrix: transposes all of them. Interleaving row i with
// row i + G / 2 rotates the bits of (row, lane) by one; log2 G times gives the exchange of row and lane.
template <int G, class T>
PYLOC_INLINE void transpose_groups(Pack<T>* rows) {
  constexpr auto lanes = std::make_integer_sequence<int, Pack<T>::kWidth>();
  for (int step = 1; step < G; step *= 2) {
    Pack<T> next[G];
    for (int i = 0; i < G / 2; ++i) {
      next[2 * i] = interleave<G, 0>(rows[i], rows[i + G / 2], lanes);
      next[2 * i + 1] = interleave<G, 1>(rows[i], rows[i + G / 2], lanes);
    }
    for (int i = 0; i < G; ++i) rows[i] = next[i];
  }
}

// Columns of W structures of kMembers values each. Reads nothing outside them.
template <int kMembers, class T>
PYLOC_INLINE void load_columns(const T* structures, Pack<T> columns[kMembers]) {
  constexpr int W = Pack<T>::kWidth, G = W < 8 ? W : 8, kWhole = kMembers / G * G;
  for (int c = 0; c < kWhole; c += G) {
    for (int i = 0; i < G; ++i)
      for (int group = 0; group < W / G; ++group)
        std::memcpy(reinterpret_cast<char*>(&columns[c + i].raw) + group * G * sizeof(T),
                    structures + (group * G + i) * kMembers + c, G * sizeof(T));
    transpose_groups<G>(columns + c);
  }
  for (int c = kWhole; c < kMembers; ++c)
    for (int i = 0; i < W; ++i) columns[c].set(i, structures[i * kMembers + c]);
}

// The way back, for kMembers a multiple of the width.
template <int kMembers, class T>
PYLOC_INLINE void store_columns(const T* columns, T* structures) {
  constexpr int W = Pack<T>::kWidth;
  static_assert(kMembers % W == 0, "whole packs only");
  for (int c = 0; c < kMembers; c += W) {
    Pack<T> rows[W];
    for (int i = 0; i < W; ++i) rows[i] = Pack<T>::load(columns + (c + i) * W);
    transpose_groups<W>(rows);
    for (int i = 0; i < W; ++i) rows[i].store(structures + i * kMembers + c);
  }
}

PYLOC_NAMESPACE_END
