// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/local_loss_maps.h"

#include "cpu/slot_pool.h"
#include "cpu/top_cells.h"
#include "cpu/window_product.h"
#include "runtime/thread_pool.h"

namespace pyloc::cpu::PYLOC_ISA {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
constexpr std::int64_t kBatchBytes = std::int64_t{32} << 20;  // logits held at a time
constexpr std::int64_t kStripPanels = 16;                     // panels packed at a time

std::int32_t clamp(std::int64_t v, std::int32_t low, std::int32_t high) {
  return static_cast<std::int32_t>(v < low ? low : v > high ? high : v);
}
std::int32_t floor_to_panel(std::int32_t x) { return x & ~(kPanel - 1); }  // two's complement: also below 0

// What of window n takes part. Nothing of it: x1 == x0.
WindowSlot window_slot(const LocalWindows& in, std::int64_t n) {
  WindowSlot s{};
  const std::int64_t x = in.origins[2 * n], y = in.origins[2 * n + 1];
  s.descriptor = static_cast<std::int32_t>(n);
  if (!(in.log_weight[n] > -INFINITY)) return s;
  s.x0 = clamp(x, 0, in.W), s.x1 = clamp(x + in.window_w, 0, in.W);
  s.y0 = clamp(y, 0, in.H), s.y1 = clamp(y + in.window_h, 0, in.H);
  if (s.x1 <= s.x0 || s.y1 <= s.y0) {
    s = WindowSlot{};
    s.descriptor = static_cast<std::int32_t>(n);
  } else if (in.zeros_outside) {
    s.x0 = static_cast<std::int32_t>(x), s.x1 = s.x0 + in.window_w;
    s.y0 = static_cast<std::int32_t>(y), s.y1 = s.y0 + in.window_h;
  }
  s.left = floor_to_panel(s.x0);
  return s;
}

// One batch of windows: their slots in order of y0, and the logits.
struct Batch {
  const LocalWindows& in;
  const float* scaled;  // descriptors times log2(e) / temperature: logits come out in bits
  WindowSlot* slots;
  std::int64_t count;
  std::int64_t stride;  // floats per row of logits
};

// One thread's memory for a band.
struct BandMemory {
  std::int64_t* start;  // (panels + 2): windows of panel c are touch[start[c]] ... touch[start[c + 1] - 1]
  std::int32_t* touch;
  float* packed;  // kStripPanels panels
};

// Which windows have cells in panels of rows [y, y + kBandRows), panel after panel, in order of the slots.
void list_windows(const Batch& batch, std::int32_t y, std::int64_t panels, const BandMemory& memory) {
  const std::int32_t last_column = batch.in.W - 1;
  const auto for_each_touched = [&](const auto& use) {
    for (std::int64_t n = 0; n < batch.count && batch.slots[n].y0 < y + kBandRows; ++n) {
      const WindowSlot& s = batch.slots[n];
      if (s.x1 <= s.x0 || s.y1 <= y) continue;
      const std::int64_t end = clamp(s.x1 - 1, 0, last_column) / kPanel;
      for (std::int64_t c = clamp(s.x0, 0, last_column) / kPanel; c <= end; ++c) use(n, c);
    }
  };
  for (std::int64_t c = 0; c < panels + 2; ++c) memory.start[c] = 0;
  for_each_touched([&](std::int64_t, std::int64_t c) { ++memory.start[c + 2]; });
  for (std::int64_t c = 2; c < panels + 2; ++c) memory.start[c] += memory.start[c - 1];
  for_each_touched([&](std::int64_t n, std::int64_t c) {
    memory.touch[memory.start[c + 1]++] = static_cast<std::int32_t>(n);
  });
}

// Products of the panel at column x with the windows `touch`, in groups of about the same size.
void multiply_windows(const Batch& batch, const float* panel, const std::int32_t* touch, std::int64_t count,
                      std::int32_t y, std::int64_t x) {
  const LocalWindows& in = batch.in;
  const std::int64_t groups = (count + kGroup - 1) / kGroup;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int32_t* first = touch + g * count / groups;
    const auto size = static_cast<int>(touch + (g + 1) * count / groups - first);
    const float* descriptor[kGroup];
    alignas(64) float tile[kGroup * kBandRows * kPanel];
    for (int p = 0; p < size; ++p)
      descriptor[p] = batch.scaled + std::int64_t{batch.slots[first[p]].descriptor} * in.D;
    multiply_panel_by_count<kGroup>(size, panel, in.D, descriptor, tile);
    for (int p = 0; p < size; ++p) {
      const WindowSlot& s = batch.slots[first[p]];
      for (std::int32_t r = 0; r < kBandRows; ++r)
        if (y + r >= s.y0 && y + r < s.y1 && y + r < in.H)
          std::memcpy(s.out + (y + r - s.y0) * batch.stride + x - s.left, tile + (p * kBandRows + r) * kPanel,
                      sizeof(float) * kPanel);
    }
  }
}

// Logits of all windows in rows [y, y + kBandRows).
template <class Load>
void multiply_band(const Batch& batch, std::int32_t y, const BandMemory& memory) {
  const LocalWindows& in = batch.in;
  const std::int64_t panels = (in.W + kPanel - 1) / kPanel;
  const std::int64_t row_floats = std::int64_t{kBandRows} * kPanel, panel_floats = in.D * row_floats;
  const std::int64_t* start = memory.start;
  list_windows(batch, y, panels, memory);
  for (std::int64_t c0 = 0; c0 < panels; c0 += kStripPanels) {
    const std::int64_t c1 = c0 + kStripPanels < panels ? c0 + kStripPanels : panels;
    if (start[c0] == start[c1]) continue;
    for (std::int64_t d = 0; d < in.D; ++d)
      for (std::int64_t c = c0; c < c1; ++c)
        if (start[c] < start[c + 1])
          pack_window_panel<Load>(in.features, d, in.D, in.H, in.W, y, c * kPanel,
                                  memory.packed + (c - c0) * panel_floats + d * row_floats);
    for (std::int64_t c = c0; c < c1; ++c)
      multiply_windows(batch, memory.packed + (c - c0) * panel_floats, memory.touch + start[c],
                       start[c + 1] - start[c], y, c * kPanel);
  }
}

// All bands, on memory that the threads lend each other.
bool multiply_bands(const Batch& batch, int num_threads) {
  const LocalWindows& in = batch.in;
  const std::int64_t bands = (in.H + kBandRows - 1) / kBandRows, panels = (in.W + kPanel - 1) / kPanel;
  std::int64_t threads = num_threads > 0 ? num_threads : runtime::default_num_threads();
  if (threads > SlotPool::kMax) threads = SlotPool::kMax;
  if (threads > bands) threads = bands;
  const std::int64_t per_window = batch.stride / kPanel < panels ? batch.stride / kPanel : panels;
  const std::int64_t packed = kStripPanels * in.D * kBandRows * kPanel;
  Scratch<std::int64_t> start(static_cast<std::size_t>(threads * (panels + 2)));
  Scratch<std::int32_t> touch(static_cast<std::size_t>(threads * batch.count * per_window));
  Scratch<float> panel(static_cast<std::size_t>(threads * packed));
  if (!start || !touch || !panel) return false;
  SlotPool pool(static_cast<int>(threads));
  runtime::parallel_for(bands, static_cast<int>(threads), [&](std::int64_t b) {
    const int slot = pool.acquire();
    const BandMemory memory{start.data() + slot * (panels + 2),
                            touch.data() + slot * batch.count * per_window, panel.data() + slot * packed};
    const auto y = static_cast<std::int32_t>(b * kBandRows);
    if (in.features_dtype == kFloat32)
      multiply_band<LoadFloat32>(batch, y, memory);
    else if (in.features_dtype == kFloat16)
      multiply_band<LoadFloat16>(batch, y, memory);
    else
      multiply_band<LoadBf16>(batch, y, memory);
    pool.release(slot);
  });
  return true;
}

struct LogSum {
  float top;    // largest logit, bits
  double log2;  // log2 of the sum of 2^logit
  bool finite;
};

// Columns and rows of a window to visit.
struct Range {
  std::int32_t x0, x1, y0, y1;
};
Range whole(const WindowSlot& s) { return {s.x0, s.x1, s.y0, s.y1}; }

// Calls use(pack, cell of its first lane) for every logit of the range in row-major order; lanes outside it
// hold NaN, which no comparison selects.
template <class Use>
PYLOC_INLINE void for_each_pack(const WindowSlot& s, std::int64_t stride, Range range, const Use& use) {
  constexpr int kWidth = PackF::kWidth;
  if (range.x0 >= range.x1) return;  // else its pack might begin before the window's row
  const PackI iota = PackI::iota();
  for (std::int32_t y = range.y0; y < range.y1; ++y) {
    const float* row = s.out + (y - s.y0) * stride;
    for (std::int32_t x = range.x0 & ~(kWidth - 1); x < range.x1; x += kWidth) {
      PackF v = PackF::load(row + x - s.left);
      if (x < range.x0 || x + kWidth > range.x1) {
        const PackI column = iota + x;
        const PackMask<float> valid{(column.raw >= PackI(range.x0).raw) & (column.raw < PackI(range.x1).raw)};
        v = select(valid, v, PackF(__builtin_nanf("")));
      }
      use(v, static_cast<std::int32_t>((y - s.y0) * stride + x - s.left));
    }
  }
}

LogSum log_sum(const WindowSlot& s, std::int64_t stride) {
  PackF top(-INFINITY);
  for_each_pack(s, stride, whole(s),
                [&](PackF v, std::int32_t) { top = max_(v, top); });  // NaN > top is false
  LogSum r{};
  r.top = reduce_max(top);
  // Rows are summed in float32, the rows' sums in float64.
  double total = 0;
  std::int64_t cells = 0;
  Range row = whole(s);
  for (row.y0 = s.y0; row.y0 < s.y1; ++row.y0) {
    row.y1 = row.y0 + 1;
    PackF sum(0.0f);
    PackI count(0);
    for_each_pack(s, stride, row, [&](PackF v, std::int32_t) {
      const PackF away = v - r.top;  // at most 0; NaN where there is no cell or the logit is not finite
      const PackMask<float> valid = mask_and(away <= 0.0f, away >= -3e38f);
      count.raw -= valid.raw;
      sum += select(valid, exp2_(away), PackF(0.0f));
    });
    total += reduce_add(sum);
    for (int i = 0; i < PackI::kWidth; ++i) cells += count[i];
  }
  r.finite = cells == std::int64_t{s.x1 - s.x0} * (s.y1 - s.y0);
  r.log2 = r.top + ::log2(total);
  return r;
}

// Live entries of one window, appended to its chunk.
LocalStatus collect(const LocalWindows& in, const WindowSlot& s, std::int64_t stride, TopCells& top,
                    runtime::SparseChunk& chunk, std::int64_t& length) {
  const LogSum sum = log_sum(s, stride);
  if (!sum.finite) return LocalStatus::kNotFinite;
  // L = -ln(P + epsilon) < ln|O| with P = exp(ln2 (logit - log2 sum)) * mass * scale.
  const double weight = in.log_weight[s.descriptor];
  const double least = ::exp(-in.log_cardinality) - in.epsilon;
  const double cut = least > 0 ? sum.log2 + (::log(least) - weight) / kLn2 : -INFINITY;
  const float floor = static_cast<float>(cut);
  if (!top.start(in.limit, floor)) return LocalStatus::kOutOfMemory;
  if (!(sum.top > floor)) return LocalStatus::kOk;
  // Only cells that are stored inside the map compete for the places.
  const Range kept{clamp(s.x0, -in.shift, in.W - in.shift), clamp(s.x1, -in.shift, in.W - in.shift),
                   clamp(s.y0, -in.shift, in.H - in.shift), clamp(s.y1, -in.shift, in.H - in.shift)};
  for_each_pack(s, stride, kept, [&](PackF v, std::int32_t cell) { top.offer(v, cell); });
  top.finish(floor);
  if (top.out_of_memory() || !runtime::reserve_entries(chunk, top.size())) return LocalStatus::kOutOfMemory;
  for (std::int64_t i = 0; i < top.size(); ++i) {
    const std::int32_t cell = top.cell(i);
    const std::int64_t y = s.y0 + cell / stride + in.shift, x = s.left + cell % stride + in.shift;
    double log_p = (top.value(i) - sum.log2) * kLn2 + weight;
    if (in.epsilon > 0) log_p = ::log(::exp(log_p) + in.epsilon);
    const float gain = static_cast<float>(in.log_cardinality + log_p);
    if (!(gain > 0)) continue;  // rounding at the truncation
    chunk.cells[chunk.size] = static_cast<std::uint32_t>(y << 16 | x);
    chunk.gain[chunk.size] = gain;
    ++chunk.size;
    ++length;
  }
  return LocalStatus::kOk;
}

// Slots of the windows [begin, begin + count), sorted by their first row, and where each one went.
// Returns the floats per row of logits.
std::int64_t make_slots(const LocalWindows& in, std::int64_t begin, std::int64_t count, std::int64_t* bins,
                        WindowSlot* sorted, std::int32_t* place) {
  std::int64_t width = 1;
  const std::int64_t low = -std::int64_t{in.window_h}, n_bins = in.H - low + 1;
  for (std::int64_t b = 0; b <= n_bins; ++b) bins[b] = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const WindowSlot s = window_slot(in, begin + i);
    width = s.x1 - s.left > width ? s.x1 - s.left : width;
    ++bins[s.y0 - low + 1];
  }
  for (std::int64_t b = 0; b < n_bins; ++b) bins[b + 1] += bins[b];
  for (std::int64_t i = 0; i < count; ++i) {
    const WindowSlot s = window_slot(in, begin + i);
    place[i] = static_cast<std::int32_t>(bins[s.y0 - low]++);
    sorted[place[i]] = s;
  }
  return (width + kPanel - 1) / kPanel * kPanel;
}

LocalStatus worse(LocalStatus a, LocalStatus b) { return static_cast<int>(a) > static_cast<int>(b) ? a : b; }

LocalStatus run_batch(const LocalWindows& in, const float* scaled, std::int64_t begin, std::int64_t count,
                      int num_threads, runtime::SparseRows& rows) {
  const auto n_slots = static_cast<std::size_t>(count);
  Scratch<WindowSlot> slots(n_slots);
  Scratch<std::int32_t> place(n_slots);
  Scratch<std::int64_t> bins(static_cast<std::size_t>(in.H) + static_cast<std::size_t>(in.window_h) + 2);
  if (!slots || !place || !bins) return LocalStatus::kOutOfMemory;
  const std::int64_t stride = make_slots(in, begin, count, bins.data(), slots.data(), place.data());
  std::int64_t cells = 0;
  for (std::int64_t i = 0; i < count; ++i) cells += (slots[i].y1 - slots[i].y0) * stride;
  Scratch<float> logits(static_cast<std::size_t>(cells));
  if (!logits) return LocalStatus::kOutOfMemory;
  if (in.zeros_outside) std::memset(logits.data(), 0, sizeof(float) * static_cast<std::size_t>(cells));
  float* out = logits.data();
  for (std::int64_t i = 0; i < count; ++i) {
    slots[i].out = out;
    out += (slots[i].y1 - slots[i].y0) * stride;
  }

  const Batch batch{in, scaled, slots.data(), count, stride};
  if (!multiply_bands(batch, num_threads)) return LocalStatus::kOutOfMemory;
  constexpr std::int64_t kChunk = runtime::SparseRows::kChunkRows;
  const std::int64_t chunks = (count + kChunk - 1) / kChunk;
  Scratch<LocalStatus> status(static_cast<std::size_t>(chunks));
  if (!status) return LocalStatus::kOutOfMemory;
  runtime::parallel_for(chunks, num_threads, [&](std::int64_t c) {
    TopCells top;
    LocalStatus worst = LocalStatus::kOk;
    const std::int64_t last = (c + 1) * kChunk < count ? (c + 1) * kChunk : count;
    for (std::int64_t i = c * kChunk; i < last; ++i) {
      const WindowSlot& s = slots[place[i]];
      if (s.x1 <= s.x0) continue;
      worst = worse(worst,
                    collect(in, s, stride, top, rows.chunk[(begin + i) / kChunk], rows.lengths[begin + i]));
    }
    status[c] = worst;
  });
  LocalStatus worst = LocalStatus::kOk;
  for (std::int64_t i = 0; i < chunks; ++i) worst = worse(worst, status[i]);
  return worst;
}

LocalStatus run(const LocalWindows& in, int num_threads, runtime::SparseRows& rows) {
  const std::int64_t values = in.count * in.D;
  Scratch<float> scaled(static_cast<std::size_t>(values));
  if (!scaled) return LocalStatus::kOutOfMemory;
  const double scale = 1.0 / (kLn2 * in.temperature);
  for (std::int64_t i = 0; i < values; ++i) scaled[i] = static_cast<float>(in.descriptors[i] * scale);
  // Batches of whole chunks, of as many windows as the logits' memory allows.
  const std::int64_t widest = in.zeros_outside || in.window_w < in.W ? in.window_w : in.W;
  const std::int64_t tallest = in.zeros_outside || in.window_h < in.H ? in.window_h : in.H;
  const std::int64_t bytes = 4 * tallest * (widest + 2 * kPanel);
  constexpr std::int64_t kChunk = runtime::SparseRows::kChunkRows;
  const std::int64_t batch = (kBatchBytes / bytes / kChunk + 1) * kChunk;
  LocalStatus worst = LocalStatus::kOk;
  for (std::int64_t begin = 0; begin < in.count; begin += batch) {
    const std::int64_t count = begin + batch < in.count ? batch : in.count - begin;
    worst = worse(worst, run_batch(in, scaled.data(), begin, count, num_threads, rows));
  }
  return worst;
}

}  // namespace

const LocalLossMapsKernels& local_loss_maps_kernels() {
  static constexpr LocalLossMapsKernels kernels{&run};
  return kernels;
}

}  // namespace pyloc::cpu::PYLOC_ISA
