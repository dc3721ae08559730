// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// One batch item of the metadata cost volume: its source maps taken through the first layer, what a view has
// alone, and the geometry of a group of samples.
#pragma once

#include "cpu/metadata_layers.h"
#include "pyloc/plane_sweep.h"

PYLOC_NAMESPACE_BEGIN

// Maps: (V, Hs, Ws) records of width1 floats, the features through the first layer, and the features.
class MetadataItem {
 public:
  MetadataItem(const cpu::MetadataProblem& p, const MetadataLayers& l) : problem_(p), layers_(l) {}
  std::int64_t cells() const { return problem_.source_height * problem_.source_width; }
  std::int64_t map_floats() const { return cells() * layers_.record(); }  // of a view
  std::int64_t floats() const { return problem_.views * (map_floats() + 2 * layers_.width1); }
  std::int64_t views() const { return problem_.num_views ? problem_.num_views[item_] : problem_.views; }
  std::int64_t index() const { return item_; }

  const float* map(std::int64_t view) const { return maps_ + view * map_floats(); }
  const float* constant(std::int64_t view) const { return constants_ + view * layers_.width1; }
  const float* centre(std::int64_t view) const {
    return constants_ + (problem_.views + view) * layers_.width1;
  }
  const float* centre_of(std::int64_t view) const {
    return problem_.centres + (item_ * problem_.views + view) * 3;
  }
  const float* pose_of(std::int64_t view) const {
    return problem_.pose_values + (item_ * problem_.views + view) * 3;
  }

  // `finish_row(records)` may change the form of a row of records.
  template <class FinishRow>
  void place(std::int64_t item, float* memory, const FinishRow& finish_row);
  void place(std::int64_t item, float* memory) {
    place(item, memory, [](float*) {});
  }

 private:
  float* project_row(std::int64_t view, std::int64_t row) const;

  const cpu::MetadataProblem& problem_;
  const MetadataLayers& layers_;
  std::int64_t item_ = 0;
  float *maps_ = nullptr, *constants_ = nullptr;
};

template <class FinishRow>
inline void MetadataItem::place(std::int64_t item, float* memory, const FinishRow& finish_row) {
  const cpu::MetadataProblem& p = problem_;
  const MetadataLayers& l = layers_;
  item_ = item;
  maps_ = memory;
  constants_ = memory + p.views * map_floats();
  for (std::int64_t v = 0; v < views(); ++v)
    for (std::int64_t j = 0; j < l.width1; ++j) {
      float constant = l.bias1[j], centre = 0.0f;
      for (int k = 0; k < 3; ++k) {
        constant += pose_of(v)[k] * l.row(kPose + k)[j];
        centre += centre_of(v)[k] * l.row(kSourceRay + k)[j];
      }
      constants_[v * l.width1 + j] = constant;
      constants_[(p.views + v) * l.width1 + j] = centre;
    }
  runtime::parallel_for(views() * p.source_height, p.num_threads, [&](std::int64_t row) {
    finish_row(project_row(row / p.source_height, row % p.source_height));
  });
}

inline float* MetadataItem::project_row(std::int64_t view, std::int64_t row) const {
  const cpu::MetadataProblem& p = problem_;
  const MetadataLayers& l = layers_;
  const std::int64_t n = p.source_width, record = l.record();
  float *const records = maps_ + view * map_floats() + row * n * record, *to = records;
  const std::int64_t first = ((item_ * p.views + view) * p.channels * p.source_height + row) * n;
  for (std::int64_t x = 0; x < n; ++x)
    for (std::int64_t c = p.channels; c < l.features; ++c) to[x * record + l.width1 + c] = 0.0f;
  for (std::int64_t c = 0; c < p.channels; ++c) {
    const std::int64_t at = first + c * cells();
    float* out = to + l.width1 + c;
    if (p.source_dtype == kFloat32) {
      const float* from = static_cast<const float*>(p.sources) + at;
      for (std::int64_t x = 0; x < n; ++x) out[x * record] = from[x];
    } else {
      const auto* from = static_cast<const std::uint16_t*>(p.sources) + at;
      for (std::int64_t x = 0; x < n; ++x)
        out[x * record] = p.source_dtype == kFloat16 ? LoadFloat16::load(from + x) : LoadBf16::load(from + x);
    }
  }
  for (std::int64_t x = 0; x < n; ++x, to += record)
    for (std::int64_t j = 0; j < l.width1; j += kHiddenUnit) {
      PackF a(0.0f), b(0.0f);
      for (std::int64_t c = 0; c < p.channels; ++c) {
        const PackF f(to[l.width1 + c]);
        a = fma_(f, PackF::load(l.first + c * l.width1 + j), a);
        b = fma_(f, PackF::load(l.first + c * l.width1 + j + kLanes), b);
      }
      a.store(to + j);
      b.store(to + j + kLanes);
    }
  return records;
}

// kLanes neighbouring cells of a row of the reference; behind the last cell of the row it is repeated.
class MetadataCells {
 public:
  MetadataCells(const cpu::MetadataProblem& p, const MetadataLayers& l) : problem_(p), layers_(l) {}
  std::int64_t floats() const {
    return kLanes * (4 * layers_.width1 + layers_.features) + 2 * layers_.width1;
  }
  void place(float* memory) {
    own_ = memory;
    cell_ = own_ + kLanes * layers_.features;
    turned_ = cell_ + kLanes * layers_.width1;
    plane_ = turned_ + kLanes * layers_.width1;
    constant_ = plane_ + 2 * kLanes * layers_.width1;
  }
  void set(const MetadataItem& item, std::int64_t y, std::int64_t x);
  void set_view(std::int64_t view);
  // Everything about the samples at a plane but the inner product. They refer to memory that the next plane
  // but one overwrites.
  void project(std::int64_t plane, MetadataSamples& samples);

  int count() const { return count_; }  // cells within the row
  const float* own() const { return own_; }
  const float* turned() const { return turned_; }
  PackF ray(int k) const { return unit_[k]; }
  PackF source_ray(int k, const MetadataSamples& s) const {
    return ray_[k] * PackF::load(s.ray) - PackF(item_->centre_of(view_)[k]) * PackF::load(s.near);
  }

 private:
  void load_own(std::int64_t y, std::int64_t x);
  // floor_ of numbers that fit int32; GCC 12 takes that for a use of something undefined here.
  static PYLOC_INLINE PackF whole(PackF a) {
    const PackF truncated = to_float(to_int(a));
    return select(truncated > a, truncated - 1.0f, truncated);
  }
  void set_plane(std::int64_t plane, MetadataSamples& samples);
  const float* projection() const {
    return problem_.projection + (item_->index() * problem_.views + view_) * 12;
  }

  const cpu::MetadataProblem& problem_;
  const MetadataLayers& layers_;
  const MetadataItem* item_ = nullptr;
  // (lanes, features), twice (lanes, width1), two planes of (lanes, width1) and of (width1)
  float *own_, *cell_, *turned_, *plane_, *constant_;
  int count_ = 0;
  std::int64_t x_ = 0, y_ = 0, view_ = 0;
  PackF column_, ray_[3], unit_[3], depth_, inverse_depth_;
  SweepVector<PackF> sight_;  // the cells' rays in the source's map
};

inline void MetadataCells::load_own(std::int64_t y, std::int64_t x) {
  const cpu::MetadataProblem& p = problem_;
  const std::int64_t plane = p.height * p.width;
  for (std::int64_t c = 0; c < layers_.features; ++c) {
    alignas(64) float row[kLanes] = {};
    if (c < p.channels) {
      const std::int64_t at = (item_->index() * p.channels + c) * plane + y * p.width + x;
      load_floats(p.reference_dtype, p.reference, at, count_, row);
      for (int i = count_; i < kLanes; ++i) row[i] = row[count_ - 1];
    }
    for (int i = 0; i < kLanes; ++i) own_[i * layers_.features + c] = row[i];
  }
}

inline void MetadataCells::set(const MetadataItem& item, std::int64_t y, std::int64_t x) {
  const cpu::MetadataProblem& p = problem_;
  const MetadataLayers& l = layers_;
  item_ = &item;
  x_ = x;
  y_ = y;
  count_ = int(p.width - x < kLanes ? p.width - x : kLanes);
  load_own(y, x);
  column_ = min_(PackF::iota(), PackF(float(count_ - 1))) + float(x);
  const float* k = p.rays + item.index() * 9;
  PackF square(0.0f);
  for (int i = 0; i < 3; ++i) {
    ray_[i] = fma_(PackF(k[3 * i]), column_, PackF(k[3 * i + 1] * float(y) + k[3 * i + 2]));
    square = fma_(ray_[i], ray_[i], square);
  }
  const PackF inverse = PackF(1.0f) / sqrt_(square);
  alignas(64) float rays[3][kLanes], units[3][kLanes];
  for (int i = 0; i < 3; ++i) {
    unit_[i] = ray_[i] * inverse;
    ray_[i].store(rays[i]);
    unit_[i].store(units[i]);
  }
  for (int i = 0; i < kLanes; ++i)
    for (std::int64_t j = 0; j < l.width1; j += kLanes) {
      PackF sum(0.0f), turned(0.0f);
      for (std::int64_t c = 0; c < l.channels; ++c)
        sum = fma_(PackF(own_[i * l.features + c]), PackF::load(l.first + (l.channels + c) * l.width1 + j),
                   sum);
      for (int r = 0; r < 3; ++r) {
        sum = fma_(PackF(units[r][i]), PackF::load(l.row(kRay + r) + j), sum);
        turned = fma_(PackF(rays[r][i]), PackF::load(l.row(kSourceRay + r) + j), turned);
      }
      sum.store(cell_ + i * l.width1 + j);
      turned.store(turned_ + i * l.width1 + j);
    }
}

inline void MetadataCells::set_view(std::int64_t view) {
  view_ = view;
  sight_ = sweep_ray(projection(), column_, PackF(float(y_)));
}

inline void MetadataCells::set_plane(std::int64_t plane, MetadataSamples& s) {
  const cpu::MetadataProblem& p = problem_;
  const MetadataLayers& l = layers_;
  const std::int64_t at = item_->index() * p.planes + plane;
  if (p.depth_per_cell) {
    const float* from = p.depths + (at * p.height + y_) * p.width + x_;
    depth_ = PackF::load_partial(from, count_, from[count_ - 1]);
  } else {
    depth_ = PackF(p.depths[at]);
  }
  inverse_depth_ = PackF(1.0f) / depth_;
  const float *limits = p.depth_limits + 2 * item_->index(), *weights = l.row(kPlaneDepth);
  ((depth_ - limits[0]) / limits[1]).store(s.plane_depth);
  const int rows = p.depth_per_cell ? kLanes : 1, slot = plane & 1;
  const float* from = p.depth_per_cell ? cell_ : item_->constant(view_);
  float* to = p.depth_per_cell ? plane_ + slot * kLanes * l.width1 : constant_ + slot * l.width1;
  s.base = p.depth_per_cell ? to : cell_;
  s.constant = p.depth_per_cell ? item_->constant(view_) : to;
  for (int i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < l.width1; j += kLanes) {
      const PackF before = PackF::load(from + i * l.width1 + j);
      fma_(PackF(s.plane_depth[i]), PackF::load(weights + j), before).store(to + i * l.width1 + j);
    }
}

inline void MetadataCells::project(std::int64_t plane, MetadataSamples& s) {
  const cpu::MetadataProblem& p = problem_;
  set_plane(plane, s);
  const SweepVector<PackF> at = sweep_sample(projection(), sight_, inverse_depth_);
  const PackF zero(0.0f), one(1.0f);
  const PackF u = at.x, v = at.y;
  const float* limits = p.depth_limits + 2 * item_->index();
  select(sweep_in_front(at), one, zero).store(s.in_front);
  ((depth_ * at.z - limits[0]) / limits[1]).store(s.source_depth);
  // NaN compares false: no tap.
  const auto inside = mask_and(mask_and(u > -1.0f, u < float(p.source_width)),
                               mask_and(v > -1.0f, v < float(p.source_height)));
  const PackF x0 = whole(select(inside, u, zero)), y0 = whole(select(inside, v, zero));
  const PackF ax = select(inside, u - x0, zero), ay = select(inside, v - y0, zero);
  const PackF last_x(float(p.source_width - 1)), last_y(float(p.source_height - 1));
  const PackF right = select(x0 < last_x, ax, zero), left = select(x0 >= 0.0f, one - ax, zero);
  const PackF below = select(y0 < last_y, ay, zero);
  const PackF above = select(mask_and(inside, y0 >= 0.0f), one - ay, zero);
  (left * above).store(s.weight[0]);
  (right * above).store(s.weight[1]);
  (left * below).store(s.weight[2]);
  (right * below).store(s.weight[3]);
  const std::int32_t record = std::int32_t(layers_.record()), line = std::int32_t(p.source_width) * record;
  const PackI x_first = to_int(max_(x0, zero)) * record, x_second = to_int(min_(x0 + 1.0f, last_x)) * record;
  const PackI y_first = to_int(max_(y0, zero)) * line, y_second = to_int(min_(y0 + 1.0f, last_y)) * line;
  (y_first + x_first).store(s.offset[0]);
  (y_first + x_second).store(s.offset[1]);
  (y_second + x_first).store(s.offset[2]);
  (y_second + x_second).store(s.offset[3]);
  PackF square(0.0f), cosine(0.0f);
  for (int k = 0; k < 3; ++k) {
    const PackF w = ray_[k] - PackF(item_->centre_of(view_)[k]) * inverse_depth_;
    square = fma_(w, w, square);
    cosine = fma_(w, unit_[k], cosine);
  }
  const PackF inverse = select(square > 0.0f, one / sqrt_(square), zero);  // 0: the point is the centre
  inverse.store(s.ray);
  (inverse * inverse_depth_).store(s.near);
  (cosine * inverse).store(s.cosine);
}

PYLOC_NAMESPACE_END
