// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#define EIGEN_USE_THREADS
#include "runtime/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <unsupported/Eigen/CXX11/ThreadPool>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pyloc::runtime {
namespace {

constexpr int kMaxThreads = 256;

// Cores this process may use: a container's or taskset's mask, not the machine's count.
int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int initial_threads() {
  if (const char* text = std::getenv("PYLOC_NUM_THREADS")) {
    const int wanted = std::atoi(text);
    if (wanted > 0) return std::min(wanted, kMaxThreads);
  }
  return std::min(available_cores(), kMaxThreads);
}

std::atomic<int>& default_threads() {
  static std::atomic<int> value{initial_threads()};
  return value;
}

struct PoolSlot {
  std::mutex mutex;
  std::shared_ptr<Eigen::ThreadPool> pool;
  int size = 0;
};

// Never destroyed: worker threads may outlive static destruction at interpreter exit.
PoolSlot*& slot() {
  static PoolSlot* value = new PoolSlot;
  return value;
}

// A forked child inherits the object but not its threads: give it an empty slot.
void forget_pool_after_fork() { slot() = new PoolSlot; }

// At least `size` workers. A pool that is grown is replaced; calls that hold the old one finish on it.
std::shared_ptr<Eigen::ThreadPool> acquire_pool(int size) {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, &forget_pool_after_fork);
  (void)registered;
#endif
  PoolSlot& s = *slot();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!s.pool || s.size < size) {
    s.pool = std::make_shared<Eigen::ThreadPool>(size);
    s.size = size;
  }
  return s.pool;
}

// Shared by the caller and its workers; the last to leave frees it, so that a worker that starts after
// the work is gone still finds valid memory.
struct Job {
  std::atomic<std::int64_t> next{0};
  std::int64_t n_chunks;
  ChunkFunction run;
  void* context;
  std::mutex mutex;
  std::condition_variable done;
  std::int64_t finished = 0;
  std::exception_ptr error;

  void work() {
    std::int64_t count = 0;
    std::exception_ptr caught;
    for (;;) {
      const std::int64_t chunk = next.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= n_chunks) break;
      try {
        if (!caught) run(context, chunk);
      } catch (...) {
        caught = std::current_exception();
      }
      ++count;
    }
    if (count == 0) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (caught && !error) error = caught;
    finished += count;
    if (finished == n_chunks) done.notify_all();
  }
};

}  // namespace

int default_num_threads() { return default_threads().load(std::memory_order_relaxed); }

void set_default_num_threads(int count) {
  default_threads().store(count > 0 ? std::min(count, kMaxThreads) : initial_threads(),
                          std::memory_order_relaxed);
}

void parallel_for(std::int64_t n_chunks, int num_threads, ChunkFunction run, void* context) {
  const int wanted = num_threads > 0 ? std::min(num_threads, kMaxThreads) : default_num_threads();
  const int threads = static_cast<int>(std::min<std::int64_t>(wanted, n_chunks));
  if (threads <= 1) {
    for (std::int64_t c = 0; c < n_chunks; ++c) run(context, c);
    return;
  }
  auto job = std::make_shared<Job>();
  job->n_chunks = n_chunks;
  job->run = run;
  job->context = context;
  const auto pool = acquire_pool(threads - 1);
  for (int i = 1; i < threads; ++i) pool->Schedule([job] { job->work(); });
  job->work();
  std::unique_lock<std::mutex> lock(job->mutex);
  job->done.wait(lock, [&] { return job->finished == job->n_chunks; });
  if (job->error) std::rethrow_exception(job->error);
}

}  // namespace pyloc::runtime
