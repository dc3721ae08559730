// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/metadata_cost_volume.h"

#include "cpu/metadata_bf16.h"
#include "cpu/metadata_gradients.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

// The network on a group of samples: float32, or pairs of bfloat16.
struct FloatNetwork {
  static void finish_row(float*, std::int64_t, std::int64_t) {}
  static void evaluate(const MetadataLayers& l, MetadataSamples& s, const float* map, const float* own,
                       const float* turned, const float* centre, float* hidden, PackF found[2]) {
    (feature_products<false>(l, s, map, own, nullptr) * PackF::load(s.in_front)).store(s.dot);
    first_layer(l, s, map, turned, centre, hidden);
    last_layers<false>(l, hidden, nullptr, found);
  }
};
#if defined(__AVX512F__)
struct Bf16Network {
  Bf16Network(const MetadataLayers& l) : layers(l), memory(std::size_t(layers.words(l))) {}
  bool place(const MetadataLayers& l) {
    if (memory) layers.place(l, memory.data());
    return bool(memory);
  }
  static void finish_row(float* records, std::int64_t n, std::int64_t record) {
    pair_records(records, n, record);
  }
  void evaluate(const MetadataLayers& l, const MetadataSamples& s, const float* map, const float* own,
                const float* turned, const float* centre, float* hidden, PackF found[2]) const {
    evaluate_bf16(l, layers, s, map, own, turned, centre, hidden, found);
  }
  MetadataBf16Layers layers;
  Scratch<std::uint32_t> memory;
};
#endif

// A chunk is a tile of the reference: kLanes cells of kTileRows rows. A thread takes it through one view
// after the other, since what the tile sees of a view over all planes fits the second-level cache, and
// through the planes row by row; the softmax over the views is kept per plane.
template <class Network>
class Forward {
 public:
  Forward(const MetadataProblem& p, const MetadataLayers& l, const Network& network, const MetadataItem& item,
          float* volume, float* log_sum)
      : problem_(p), layers_(l), network_(network), item_(item), volume_(volume), log_sum_(log_sum) {}
  std::int64_t tiles() const { return columns() * ((problem_.height + kTileRows - 1) / kTileRows); }
  std::int64_t slot_floats() const {
    return kTileRows * (MetadataCells(problem_, layers_).floats() + mixed_floats()) + kLanes * layers_.width1;
  }
  int run(std::int64_t tile, float* memory) const {
    const std::int64_t x = tile % columns() * kLanes, y = tile / columns() * kTileRows;
    const std::int64_t rows = problem_.height - y < kTileRows ? problem_.height - y : kTileRows;
    MetadataCells first(problem_, layers_);
    MetadataCells cells[kTileRows] = {first, first, first, first, first, first, first, first};
    float *hidden = memory, *mixed = hidden + kLanes * layers_.width1;
    for (std::int64_t r = 0; r < rows; ++r) {
      cells[r].place(mixed + kTileRows * mixed_floats() + r * first.floats());
      cells[r].set(item_, y + r, x);
    }
    for (std::int64_t v = 0; v < item_.views(); ++v)
      for (std::int64_t r = 0; r < rows; ++r) sweep(cells[r], v, hidden, mixed + r * mixed_floats());
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t d = 0; d < problem_.planes; ++d) {
        const std::int64_t row = (item_.index() * problem_.planes + d) * problem_.height + y + r;
        finish(mixed + r * mixed_floats() + 3 * kLanes * d, row * problem_.width + x, cells[r].count());
      }
    return kMetadataDone;
  }

 private:
  static constexpr std::int64_t kTileRows = 8;
  std::int64_t columns() const { return (problem_.width + kLanes - 1) / kLanes; }
  std::int64_t mixed_floats() const { return 3 * kLanes * problem_.planes; }

  // A row of the tile through all planes of a view.
  void sweep(MetadataCells& cells, std::int64_t view, float* hidden, float* mixed) const {
    MetadataSamples samples[2];  // of a plane and the next one, whose taps are on their way
    cells.set_view(view);
    cells.project(0, samples[0]);
    for (std::int64_t d = 0; d < problem_.planes; ++d) {
      if (d + 1 < problem_.planes) {
        MetadataSamples& next = samples[(d + 1) & 1];
        cells.project(d + 1, next);
        next.prefetch(item_.map(view), layers_.record());
      }
      PackF found[2];
      network_.evaluate(layers_, samples[d & 1], item_.map(view), cells.own(), cells.turned(),
                        item_.centre(view), hidden, found);
      mix(view == 0, found[0], found[1], mixed + 3 * kLanes * d);
    }
  }
  // One more view: the largest logit so far, the sum of exponentials and that weighted by the scores.
  static void mix(bool first, PackF score, PackF logit, float* mixed) {
    if (first) {
      logit.store(mixed);
      PackF(1.0f).store(mixed + kLanes);
      return score.store(mixed + 2 * kLanes);
    }
    const PackF top = PackF::load(mixed), one(1.0f), e = exp_(-abs_(logit - top));
    const auto higher = logit > top;
    const PackF before = select(higher, e, one), now = select(higher, one, e);
    max_(logit, top).store(mixed);
    fma_(PackF::load(mixed + kLanes), before, now).store(mixed + kLanes);
    fma_(PackF::load(mixed + 2 * kLanes), before, now * score).store(mixed + 2 * kLanes);
  }
  void finish(const float* mixed, std::int64_t at, int count) const {
    const PackF sum = PackF::load(mixed + kLanes);
    (PackF::load(mixed + 2 * kLanes) / sum).store_partial(volume_ + at, count);
    if (log_sum_) (PackF::load(mixed) + log_(sum)).store_partial(log_sum_ + at, count);
  }

  const MetadataProblem& problem_;
  const MetadataLayers& layers_;
  const Network& network_;
  const MetadataItem& item_;
  float *volume_, *log_sum_;
};

template <class Network>
int forward_with(const MetadataProblem& p, const MetadataLayers& layers, const Network& network,
                 float* volume, float* log_sum) {
  MetadataItem item(p, layers);
  Scratch<float> memory(std::size_t(item.floats()));
  if (!memory) return kMetadataOutOfMemory;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    item.place(b, memory.data(),
               [&](float* records) { network.finish_row(records, p.source_width, layers.record()); });
    const Forward<Network> work(p, layers, network, item, volume, log_sum);
    const int status = run_items(work.tiles(), p.num_threads, work);
    if (status != kMetadataDone) return status;
  }
  return kMetadataDone;
}

int forward(const MetadataProblem& p, float* volume, float* log_sum) {
  MetadataLayers layers(p);
  Scratch<float> weights(std::size_t(layers.floats()));
  if (!weights) return kMetadataOutOfMemory;
  layers.place(p, weights.data());
#if defined(__AVX512F__)
  if (multiplies_bf16(p.source_dtype)) {
    Bf16Network network(layers);
    if (!network.place(layers)) return kMetadataOutOfMemory;
    return forward_with(p, layers, network, volume, log_sum);
  }
#endif
  return forward_with(p, layers, FloatNetwork{}, volume, log_sum);
}

// float32 arithmetic whatever the features are.
int forward_exact(const MetadataProblem& p, float* volume, float* log_sum) {
  MetadataLayers layers(p);
  Scratch<float> weights(std::size_t(layers.floats()));
  if (!weights) return kMetadataOutOfMemory;
  layers.place(p, weights.data());
  return forward_with(p, layers, FloatNetwork{}, volume, log_sum);
}

int backward(const MetadataProblem& p, const float* volume, const float* log_sum,
             const MetadataGradients& gradients) {
  Scratch<float> found(volume ? 0 : std::size_t(2 * p.batch * p.planes * p.height * p.width));
  if (!found) return kMetadataOutOfMemory;
  if (!volume) {
    float* sums = found.data() + p.batch * p.planes * p.height * p.width;
    const int status = forward_exact(p, found.data(), sums);
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
