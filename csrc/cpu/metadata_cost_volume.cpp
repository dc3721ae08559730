// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/metadata_cost_volume.h"

#include "cpu/metadata_gradients.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// Rows of the reference are the chunks; a thread keeps one group of cells over all planes and views, so that
// neighbouring planes find their taps in the caches.
class Forward {
 public:
  Forward(const MetadataProblem& p, const MetadataLayers& l, const MetadataItem& item, float* volume,
          float* log_sum)
      : problem_(p), layers_(l), item_(item), volume_(volume), log_sum_(log_sum) {}
  std::int64_t slot_floats() const {
    return MetadataCells(problem_, layers_).floats() + kLanes * (layers_.width1 + 2 * problem_.views);
  }
  int run(std::int64_t y, float* memory) const {
    MetadataCells cells(problem_, layers_);
    cells.place(memory);
    float* hidden = memory + cells.floats();
    float *scores = hidden + kLanes * layers_.width1, *logits = scores + kLanes * problem_.views;
    for (std::int64_t x = 0; x < problem_.width; x += kLanes) {
      cells.set(item_, y, x);
      for (std::int64_t d = 0; d < problem_.planes; ++d) {
        cells.set_plane(d);
        for (std::int64_t v = 0; v < item_.views(); ++v) {
          PackF found[2];
          sample(cells, v, hidden, found);
          found[0].store(scores + v * kLanes);
          found[1].store(logits + v * kLanes);
        }
        mix(scores, logits,
            ((item_.index() * problem_.planes + d) * problem_.height + y) * problem_.width + x,
            cells.count());
      }
    }
    return kMetadataDone;
  }

 private:
  void sample(const MetadataCells& cells, std::int64_t view, float* hidden, PackF found[2]) const {
    MetadataSamples s;
    cells.project(view, s);
    const float* map = item_.map(view);
    (feature_products<false>(layers_, s, map, cells.own(), nullptr) * PackF::load(s.in_front)).store(s.dot);
    first_layer(layers_, s, map, cells.base(), cells.turned(), item_.constant(view), item_.centre(view),
                hidden);
    last_layers<false>(layers_, hidden, nullptr, found);
  }
  // Softmax over the views of a group of samples.
  void mix(const float* scores, const float* logits, std::int64_t at, int count) const {
    const std::int64_t views = item_.views();
    PackF top = PackF::load(logits), sum(0.0f), total(0.0f);
    for (std::int64_t v = 1; v < views; ++v) top = max_(PackF::load(logits + v * kLanes), top);
    for (std::int64_t v = 0; v < views; ++v) {
      const PackF e = exp_(PackF::load(logits + v * kLanes) - top);
      sum = sum + e;
      total = fma_(e, PackF::load(scores + v * kLanes), total);
    }
    (total / sum).store_partial(volume_ + at, count);
    if (log_sum_) (top + log_(sum)).store_partial(log_sum_ + at, count);
  }

  const MetadataProblem& problem_;
  const MetadataLayers& layers_;
  const MetadataItem& item_;
  float *volume_, *log_sum_;
};

int forward(const MetadataProblem& p, float* volume, float* log_sum) {
  MetadataLayers layers(p);
  MetadataItem item(p, layers);
  Scratch<float> weights(std::size_t(layers.floats())), memory(std::size_t(item.floats()));
  if (!weights || !memory) return kMetadataOutOfMemory;
  layers.place(p, weights.data());
  for (std::int64_t b = 0; b < p.batch; ++b) {
    item.place(b, memory.data());
    const int status = run_items(p.height, p.num_threads, Forward(p, layers, item, volume, log_sum));
    if (status != kMetadataDone) return status;
  }
  return kMetadataDone;
}

int backward(const MetadataProblem& p, const float* volume, const float* log_sum,
             const MetadataGradients& gradients) {
  Scratch<float> found(volume ? 0 : std::size_t(2 * p.batch * p.planes * p.height * p.width));
  if (!found) return kMetadataOutOfMemory;
  if (!volume) {
    float* sums = found.data() + p.batch * p.planes * p.height * p.width;
    const int status = forward(p, found.data(), sums);
    if (status != kMetadataDone) return status;
    volume = found.data();
    log_sum = sums;
  }
  MetadataLayers layers(p);
  MetadataItem item(p, layers);
  Scratch<float> weights(std::size_t(layers.floats())), memory(std::size_t(item.floats()));
  if (!weights || !memory) return kMetadataOutOfMemory;
  layers.place(p, weights.data());
  return MetadataBackward(p, layers, item, volume, log_sum, gradients).run(memory.data());
}

}  // namespace

const MetadataCostVolumeKernels& metadata_cost_volume_kernels() {
  static constexpr MetadataCostVolumeKernels kernels{&forward, &backward};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
