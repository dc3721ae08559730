// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

// Lends every running chunk working memory, so that one thread always finds the same warm tile.
class SlotPool {
 public:
  static constexpr int kMax = 256;
  explicit SlotPool(int count) : count_(count) {}
  int acquire() {
    for (int i = 0;; i = i + 1 < count_ ? i + 1 : 0)
      if (!__atomic_exchange_n(&taken_[i], 1, __ATOMIC_ACQUIRE)) return i;
  }
  void release(int i) { __atomic_store_n(&taken_[i], 0, __ATOMIC_RELEASE); }

 private:
  int count_;
  int taken_[kMax] = {};
};

PYLOC_NAMESPACE_END
