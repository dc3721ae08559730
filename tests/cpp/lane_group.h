// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// A group of CPU threads in lock step (pyloc/thread_group.h): what a block does on the GPU, with real
// threads, so that a missing barrier shows in the results or in a sanitizer.
#pragma once

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

// What the lanes of one group share.
class LaneExchange {
 public:
  explicit LaneExchange(int size) : size(size), slots(std::size_t(size)), partial(std::size_t(size)) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const long mine = generation_;
    if (++arrived_ == size) {
      arrived_ = 0;
      ++generation_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return generation_ != mine; });
    }
  }

  const int size;
  std::vector<std::uint64_t> slots;
  std::vector<std::vector<double>> partial;
  std::vector<double> total;

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  long generation_ = 0;
};

// `parts`: blocks of one group; a lane knows its own by part().
template <int Tile>
class LaneGroup {
 public:
  static constexpr int kTile = Tile;
  LaneGroup(LaneExchange& exchange, int rank, int parts) : exchange_(&exchange), rank_(rank), parts_(parts) {}
  int rank() const { return rank_; }
  int size() const { return exchange_->size; }
  int part() const { return rank_ / (exchange_->size / parts_); }
  bool leads() const { return rank_ % (exchange_->size / parts_) == 0; }
  void sync() const { exchange_->wait(); }
  int tile_rank() const { return rank_ % Tile; }

  template <int N>
  const double* sum(double (&v)[N]) const {
    static_assert(N <= 32, "as on the GPU");
    exchange_->partial[std::size_t(rank_)].assign(v, v + N);
    for (double& x : v) x = -1e30;  // consumed
    sync();
    if (rank_ == 0) {
      exchange_->total.assign(N, 0.0);
      for (const auto& values : exchange_->partial)
        for (std::size_t k = 0; k < N; ++k) exchange_->total[k] += values[k];
    }
    sync();
    return exchange_->total.data();
  }
  template <class T>
  T tile_broadcast(T x, int source) const {
    return tile_values(x)[std::size_t(source)];
  }
  template <class T>
  T tile_sum(T x) const {
    const auto values = tile_values(x);
    T all = values[0];
    for (std::size_t k = 1; k < values.size(); ++k) all = all + values[k];
    return all;
  }
  template <class T>
  T tile_max(T x) const {
    const auto values = tile_values(x);
    T best = values[0];
    for (const T value : values) best = value > best ? value : best;
    return best;
  }

 private:
  template <class T>
  std::vector<T> tile_values(T x) const {
    static_assert(sizeof(T) <= 8, "what a register exchange takes");
    std::memcpy(&exchange_->slots[std::size_t(rank_)], &x, sizeof(T));
    sync();
    std::vector<T> values(Tile);
    const int first = rank_ - tile_rank();
    for (int k = 0; k < Tile; ++k)
      std::memcpy(&values[std::size_t(k)], &exchange_->slots[std::size_t(first + k)], sizeof(T));
    sync();
    return values;
  }

  LaneExchange* exchange_;
  int rank_, parts_;
};

// Calls run(group) on `size` threads at once.
template <int Tile, class Run>
void run_lanes(int size, int parts, const Run& run) {
  LaneExchange exchange(size);
  std::vector<std::thread> lanes;
  for (int rank = 0; rank < size; ++rank)
    lanes.emplace_back([&exchange, &run, rank, parts] { run(LaneGroup<Tile>(exchange, rank, parts)); });
  for (auto& lane : lanes) lane.join();
}
