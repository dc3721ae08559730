// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/thread_pool.h"

namespace {

using pyloc::runtime::parallel_for;

long sum_of_squares(int threads, std::int64_t n = 1000) {
  std::vector<long> parts(static_cast<std::size_t>(n));
  parallel_for(n, threads, [&](std::int64_t c) { parts[static_cast<std::size_t>(c)] = c * c; });
  long total = 0;
  for (const long p : parts) total += p;
  return total;
}

TEST(ThreadPool, EveryChunkRunsOnce) {
  for (const int threads : {0, 1, 2, 8, 100}) {
    std::vector<std::atomic<int>> runs(777);
    parallel_for(777, threads, [&](std::int64_t c) { ++runs[static_cast<std::size_t>(c)]; });
    for (const auto& r : runs) ASSERT_EQ(r.load(), 1);
  }
  parallel_for(0, 4, [](std::int64_t) { FAIL(); });
}

TEST(ThreadPool, UsesAtMostTheThreadsAskedFor) {
  std::atomic<int> inside{0}, most{0};
  parallel_for(40, 3, [&](std::int64_t) {
    const int now = ++inside;
    int seen = most.load();
    while (now > seen && !most.compare_exchange_weak(seen, now)) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    --inside;
  });
  EXPECT_LE(most.load(), 3);
  EXPECT_GE(most.load(), 2);
}

TEST(ThreadPool, ExceptionsReachTheCaller) {
  for (const int threads : {1, 4})
    EXPECT_THROW(parallel_for(100, threads,
                              [](std::int64_t c) {
                                if (c == 57) throw std::runtime_error("chunk 57");
                              }),
                 std::runtime_error);
  EXPECT_EQ(sum_of_squares(4), 332833500);  // and the pool still works
}

TEST(ThreadPool, NestsAndServesManyCallersAtOnce) {
  std::vector<std::thread> callers;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([&] {
      for (int round = 0; round < 20; ++round)
        parallel_for(4, 2, [&](std::int64_t) { right += sum_of_squares(3) == 332833500; });
    });
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(right.load(), 8 * 20 * 4);
}

TEST(ThreadPool, WorksInAForkedChild) {
  ASSERT_EQ(sum_of_squares(2), 332833500);  // the parent's pool exists before the fork
  const pid_t child = fork();
  if (child == 0) _exit(sum_of_squares(2) == 332833500 ? 0 : 1);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
