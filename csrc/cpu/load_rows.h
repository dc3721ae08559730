// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Arrays of the feature dtypes into float32: the way back is store_rows.h.
#pragma once

#include "cpu/tile_pack.h"

PYLOC_NAMESPACE_BEGIN

// Element `first` and on of an array as float32.
inline void load_floats(int dtype, const void* from, std::int64_t first, std::int64_t count, float* to) {
  if (dtype == kFloat32) {
    std::memcpy(to, static_cast<const float*>(from) + first, sizeof(float) * std::size_t(count));
    return;
  }
  const auto* half = static_cast<const std::uint16_t*>(from) + first;
  if (dtype == kFloat16)
    for (std::int64_t i = 0; i < count; ++i) to[i] = LoadFloat16::load(half + i);
  else
    for (std::int64_t i = 0; i < count; ++i) to[i] = LoadBf16::load(half + i);
}

PYLOC_NAMESPACE_END
