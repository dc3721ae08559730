// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Python's hold on rows of unknown length until it has allocated the arrays for them.
#pragma once

#include <new>

#include "runtime/sparse_rows.h"

namespace pyloc::bindings {

struct OwnedRows {
  runtime::SparseRows rows{};
  explicit OwnedRows(std::int64_t count) {
    if (!runtime::allocate_rows(count, rows)) throw std::bad_alloc();
  }
  ~OwnedRows() { runtime::free_rows(rows); }
  OwnedRows(const OwnedRows&) = delete;
  OwnedRows& operator=(const OwnedRows&) = delete;
};

}  // namespace pyloc::bindings
