// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The tasks of the metadata cost volume's backward, and how their shares come together.
#pragma once

#include "cpu/metadata_backward.h"

PYLOC_NAMESPACE_BEGIN

// Tasks of a view: enough of them for many threads when views are few.
inline std::int64_t metadata_bands(std::int64_t views, std::int64_t height) {
  constexpr std::int64_t kTasks = 12, kMost = 4;
  const std::int64_t wanted = (kTasks + views - 1) / views, most = kMost < height ? kMost : height;
  return wanted < most ? wanted : most;
}

class MetadataBackward {
 public:
  MetadataBackward(const cpu::MetadataProblem& p, const MetadataLayers& l, MetadataItem& item,
                   const float* volume, const float* log_sum, const cpu::MetadataGradients& g)
      : problem_(p), layers_(l), item_(item), volume_(volume), log_sum_(log_sum), gradients_(g) {
    for (std::int64_t v = 1; v <= p.views; ++v) {
      const std::int64_t tasks = v * metadata_bands(v, p.height);
      tasks_ = tasks > tasks_ ? tasks : tasks_;
    }
  }
  int run(float* item_memory);

  // Of a task: (view, band). The interface of run_items.
  std::int64_t slot_floats() const {
    return MetadataGroup(problem_, layers_, second_back_, own_back_).floats();
  }
  int run(std::int64_t task, float* memory) const;

 private:
  static constexpr std::int64_t kTileRows = 8;
  void transpose_weights(float* memory);
  void source_row(std::int64_t row) const;
  void reference_row(std::int64_t row) const;
  void add_item();
  void write() const;
  std::int64_t sum_count() const { return MetadataSums<double>::count(layers_); }
  std::int64_t back_floats() const {
    return layers_.hidden2 * layers_.width1 + 2 * layers_.hidden1 * layers_.features;
  }
  std::int64_t own_floats() const { return problem_.height * problem_.width * layers_.features; }
  std::int64_t share_floats() const { return layers_.channels * layers_.width1; }

  const cpu::MetadataProblem& problem_;
  const MetadataLayers& layers_;
  MetadataItem& item_;
  const float *volume_, *log_sum_;
  const cpu::MetadataGradients& gradients_;
  std::int64_t tasks_ = 0, bands_ = 0;
  const float *second_back_ = nullptr, *own_back_ = nullptr, *source_back_ = nullptr;
  float* d_maps_ = nullptr;  // (V, bands, Hs, Ws) records
  float* d_own_ = nullptr;   // (V, H, W, features)
  float* shares_ = nullptr;  // (V, Hs, C, width1): the sources' rows for the first layer
  double *task_sums_ = nullptr, *sums_ = nullptr;
};

// W2 (h2, width1), and the reference's and the sources' columns of W1 (h1, features), padded with zeros.
inline void MetadataBackward::transpose_weights(float* memory) {
  const MetadataLayers& l = layers_;
  std::memset(memory, 0, sizeof(float) * std::size_t(back_floats()));
  float *second = memory, *own = second + l.hidden2 * l.width1, *source = own + l.hidden1 * l.features;
  for (std::int64_t k = 0; k < l.hidden1; ++k) {
    for (std::int64_t j = 0; j < l.hidden2; ++j) second[j * l.width1 + k] = l.second[k * l.width2 + j];
    for (std::int64_t c = 0; c < l.channels; ++c) {
      source[k * l.features + c] = l.first[c * l.width1 + k];
      own[k * l.features + c] = l.first[(l.channels + c) * l.width1 + k];
    }
  }
  second_back_ = second;
  own_back_ = own;
  source_back_ = source;
}

inline int MetadataBackward::run(std::int64_t task, float* memory) const {
  const cpu::MetadataProblem& p = problem_;
  const std::int64_t view = task / bands_, band = task % bands_;
  float* d_map = d_maps_ + task * item_.map_floats();
  double* sums = task_sums_ + task * sum_count();
  std::memset(d_map, 0, sizeof(float) * std::size_t(item_.map_floats()));
  std::memset(sums, 0, sizeof(double) * std::size_t(sum_count()));
  MetadataGroup group(p, layers_, second_back_, own_back_);
  group.place(memory);
  const std::int64_t end = p.height * (band + 1) / bands_;
  // Tiles of a few rows: what one sees of the view stays in the second-level cache.
  for (std::int64_t first = p.height * band / bands_; first < end; first += kTileRows)
    for (std::int64_t x = 0; x < p.width; x += kLanes)
      for (std::int64_t y = first; y < end && y < first + kTileRows; ++y)
        group.run(item_, view, y, x, volume_, log_sum_, gradients_.d_volume, d_map,
                  d_own_ + view * own_floats() + (y * p.width + x) * layers_.features, sums);
  return cpu::kMetadataDone;
}

// Records of a row of a source to its features, and the row's share of the first layer.
inline void MetadataBackward::source_row(std::int64_t row) const {
  const cpu::MetadataProblem& p = problem_;
  const MetadataLayers& l = layers_;
  const std::int64_t view = row / p.source_height, first = row % p.source_height * p.source_width;
  const std::int64_t record = l.record();
  float* share = shares_ + row * share_floats();
  std::memset(share, 0, sizeof(float) * std::size_t(share_floats()));
  for (std::int64_t cell = first; cell < first + p.source_width; ++cell) {
    float* d = d_maps_ + view * bands_ * item_.map_floats() + cell * record;
    for (std::int64_t band = 1; band < bands_; ++band)
      for (std::int64_t j = 0; j < record; j += kLanes)
        add_to(d + j, PackF::load(d + band * item_.map_floats() + j));
    const float* features = item_.map(view) + cell * record + l.width1;
    for (std::int64_t c = 0; c < l.channels; ++c)
      for (std::int64_t j = 0; j < l.width1; j += kLanes)
        add_to(share + c * l.width1 + j, PackF(features[c]) * PackF::load(d + j));
    for (std::int64_t c = 0; c < l.features; c += kLanes) {
      PackF sum = PackF::load(d + l.width1 + c);
      for (std::int64_t k = 0; k < l.hidden1; ++k)
        sum = fma_(PackF(d[k]), PackF::load(source_back_ + k * l.features + c), sum);
      sum.store(d + l.width1 + c);
    }
  }
  const float* d = d_maps_ + view * bands_ * item_.map_floats() + first * record + l.width1;
  for (std::int64_t c = 0; c < p.channels; ++c) {
    float* to =
        gradients_.d_sources + ((item_.index() * p.views + view) * p.channels + c) * item_.cells() + first;
    for (std::int64_t x = 0; x < p.source_width; ++x) to[x] = d[x * record + c];
  }
}

inline void MetadataBackward::reference_row(std::int64_t y) const {
  const cpu::MetadataProblem& p = problem_;
  const std::int64_t features = layers_.features, first = y * p.width;
  float* d = d_own_ + first * features;
  for (std::int64_t view = 1; view < item_.views(); ++view)
    for (std::int64_t i = 0; i < p.width * features; i += kLanes)
      add_to(d + i, PackF::load(d + view * own_floats() + i));
  for (std::int64_t c = 0; c < p.channels; ++c) {
    float* to = gradients_.d_reference + (item_.index() * p.channels + c) * p.height * p.width + first;
    for (std::int64_t x = 0; x < p.width; ++x) to[x] = d[x * features + c];
  }
}

// An item's sums, in the order of its tasks and rows, then to those of the items before.
inline void MetadataBackward::add_item() {
  const std::int64_t rows = item_.views() * problem_.source_height, share = share_floats();
  double* total = task_sums_;
  for (std::int64_t task = 1; task < item_.views() * bands_; ++task)
    for (std::int64_t i = 0; i < sum_count(); ++i) total[i] += task_sums_[task * sum_count() + i];
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t i = 0; i < share; ++i) total[i] += double(shares_[row * share + i]);
  for (std::int64_t i = 0; i < sum_count(); ++i) sums_[i] += total[i];
}

inline void MetadataBackward::write() const {
  const MetadataLayers& l = layers_;
  const cpu::MetadataGradients& g = gradients_;
  MetadataSums<double> sums;
  sums.place(l, sums_);
  for (std::int64_t k = 0; k < l.hidden1; ++k) {
    for (std::int64_t i = 0; i < l.values(); ++i)
      g.d_w1[k * l.values() + i] = float(sums.first[i * l.width1 + k]);
    for (std::int64_t j = 0; j < l.hidden2; ++j)
      g.d_w2[j * l.hidden1 + k] = float(sums.second[k * l.width2 + j]);
    g.d_b1[k] = float(sums.cells[k]);
  }
  for (std::int64_t j = 0; j < l.hidden2; ++j) {
    g.d_b2[j] = float(sums.bias2[j]);
    for (int k = 0; k < 2; ++k) g.d_w3[k * l.hidden2 + j] = float(sums.third[k * l.width2 + j]);
  }
  for (int k = 0; k < 2; ++k) g.d_b3[k] = float(sums.bias3[k]);
}

inline int MetadataBackward::run(float* item_memory) {
  const cpu::MetadataProblem& p = problem_;
  const std::int64_t maps = tasks_ * item_.map_floats(), own = p.views * own_floats();
  const std::int64_t shares = p.views * p.source_height * share_floats();
  Scratch<float> memory(std::size_t(round_up(back_floats(), kLanes) + maps + own + shares));
  Scratch<double> sums(std::size_t((tasks_ + 1) * sum_count()));
  if (!memory || !sums) return cpu::kMetadataOutOfMemory;
  transpose_weights(memory.data());
  d_maps_ = memory.data() + round_up(back_floats(), kLanes);
  d_own_ = d_maps_ + maps;
  shares_ = d_own_ + own;
  task_sums_ = sums.data();
  sums_ = task_sums_ + tasks_ * sum_count();
  std::memset(sums_, 0, sizeof(double) * std::size_t(sum_count()));
  for (std::int64_t b = 0; b < p.batch; ++b) {
    item_.place(b, item_memory);
    bands_ = metadata_bands(item_.views(), p.height);
    const int status = run_items(item_.views() * bands_, p.num_threads, *this);
    if (status != cpu::kMetadataDone) return status;
    runtime::parallel_for(item_.views() * p.source_height, p.num_threads,
                          [&](std::int64_t row) { source_row(row); });
    runtime::parallel_for(p.height, p.num_threads, [&](std::int64_t row) { reference_row(row); });
    add_item();
  }
  write();
  return cpu::kMetadataDone;
}

PYLOC_NAMESPACE_END
