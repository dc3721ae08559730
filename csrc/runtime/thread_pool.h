// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The one thread pool of the process.
#pragma once

#include <cstdint>

namespace pyloc::runtime {

// Threads used when a call does not say: PYLOC_NUM_THREADS, or what the process may run on.
int default_num_threads();
void set_default_num_threads(int count);

using ChunkFunction = void (*)(void* context, std::int64_t chunk);

// Calls run(context, c) for every c in [0, n_chunks), at most num_threads at once (<= 0: the default);
// the calling thread takes part. Returns when all are done. What a chunk computes must not depend on
// which thread runs it, and chunking must not depend on num_threads: then results do not either.
void parallel_for(std::int64_t n_chunks, int num_threads, ChunkFunction run, void* context);

// The same for a callable fn(std::int64_t chunk).
template <class Fn>
static inline void parallel_for(std::int64_t n_chunks, int num_threads, const Fn& fn) {
  parallel_for(
      n_chunks, num_threads,
      [](void* context, std::int64_t chunk) { (*static_cast<const Fn*>(context))(chunk); },
      const_cast<Fn*>(&fn));
}

}  // namespace pyloc::runtime
