// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Square transposes in registers: between arrays of structures in memory and one structure member per pack.
#pragma once

#include <utility>

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

// Swaps the off-diagonal blocks of the 2 B x 2 B matrices that lanes [2 B k, 2 B (k + 1)) of rows a, b hold.
template <int B, class T, int... I>
PYLOC_INLINE void exchange_blocks(Pack<T>& a, Pack<T>& b, std::integer_sequence<int, I...>) {
  constexpr int W = Pack<T>::kWidth;
  const auto low = __builtin_shufflevector(a.raw, b.raw, (I & B ? W + I - B : I)...);
  b = Pack<T>(__builtin_shufflevector(a.raw, b.raw, (I & B ? W + I : I + B)...));
  a = Pack<T>(low);
}

// Each group of G lanes of the G packs is a G x G matrix: transposes all of them, from blocks of one element
// to blocks of G / 2.
template <int G, int B = 1, class T>
PYLOC_INLINE void transpose_groups(Pack<T>* rows) {
  if constexpr (B < G) {
    constexpr auto lanes = std::make_integer_sequence<int, Pack<T>::kWidth>();
    for (int i = 0; i < G; ++i)
      if ((i & B) == 0) exchange_blocks<B>(rows[i], rows[i + B], lanes);
    transpose_groups<G, 2 * B>(rows);
  }
}

// W packs to one: lane i holds the sum of the lanes of pack i, added up in the order of reduce_add. The packs
// are overwritten.
template <int B = Pack<float>::kWidth / 2>
PYLOC_INLINE PackF reduce_packs(PackF* packs) {
  constexpr auto lanes = std::make_integer_sequence<int, PackF::kWidth>();
  for (int i = 0; i < B; ++i) {
    exchange_blocks<B>(packs[i], packs[i + B], lanes);
    packs[i] = packs[i] + packs[i + B];
  }
  if constexpr (B > 1) return reduce_packs<B / 2>(packs);
  return packs[0];
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
