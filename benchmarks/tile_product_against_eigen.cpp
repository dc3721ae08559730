// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The tile product of csrc/cpu/tile_product.h against Eigen's matrix product: N 1000, D 128, 30000 cells,
// float32, one thread, packing included, the same tile of cells for both and, for Eigen, larger ones too.
// Not part of the build; from the repository's root, with EIGEN the folder that holds Eigen/Core:
//   g++ -O3 -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -mavx512f -mavx512bw -mavx512dq
//     -mavx512vl -mfma -mf16c -mbmi2 -mprefer-vector-width=512 -Wno-psabi -DPYLOC_ISA=avx512 -Icsrc
//     -Icsrc/include -I$EIGEN benchmarks/tile_product_against_eigen.cpp csrc/runtime/isa.cpp -o tile_product
#include <Eigen/Core>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <random>
#include <vector>

#include "cpu/tile_product.h"

using namespace pyloc;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t N = 1000, D = 128, CELLS = 30000;

template <class Run>
double median_ms(const Run& run) {
  std::vector<double> times;
  for (int i = 0; i < 10; ++i) {
    const std::clock_t start = std::clock();  // processor time: the machine may be shared
    run();
    if (i > 0) times.push_back(1e3 * double(std::clock() - start) / CLOCKS_PER_SEC);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int main() {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  Matrix h(N, D), f(D, CELLS);
  for (float& v : h.reshaped()) v = normal(generator);
  for (float& v : f.reshaped()) v = normal(generator);

  const auto kind = TileOperand::kFloat32;
  const std::int64_t chunk_bytes = packed_bytes(kind, kTileRows, D, tile_rows(kind));
  Scratch<char> rows((N + kTileRows - 1) / kTileRows * chunk_bytes);
  Scratch<char> cells(packed_bytes(kind, kTileCells, D, tile_columns(kind)));
  Scratch<float> tile(kTileRows * kTileCells);
  const auto ours = [&](Matrix* out) {
    for (std::int64_t r = 0; r < N; r += kTileRows)
      pack_rows(kind, {h.data(), kFloat32, D, 1}, r, std::min<std::int64_t>(kTileRows, N - r), D,
                rows.data() + r / kTileRows * chunk_bytes);
    for (std::int64_t c = 0; c < CELLS; c += kTileCells) {
      const std::int64_t n = std::min<std::int64_t>(kTileCells, CELLS - c);
      pack_columns(kind, {f.data(), kFloat32, 1, CELLS}, c, n, D, cells.data());
      for (std::int64_t r = 0; r < N; r += kTileRows) {
        const std::int64_t m = std::min<std::int64_t>(kTileRows, N - r);
        tile_product(kind, rows.data() + r / kTileRows * chunk_bytes, m, cells.data(), n, D, tile.data(),
                     kTileCells);
        if (out)
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) (*out)(r + i, c + j) = tile[i * kTileCells + j];
      }
    }
  };
  Matrix full(N, CELLS);
  ours(&full);
  const double difference = (full - h * f).cwiseAbs().maxCoeff();
  const double ours_ms = median_ms([&] { ours(nullptr); });
  std::printf("tile product       %6.1f ms   largest difference %.2g\n", ours_ms, difference);
  for (const std::int64_t width : {kTileCells, 4096, 30000}) {
    Matrix block(N, width);
    const double ms = median_ms([&] {
      for (std::int64_t c = 0; c < CELLS; c += width) {
        const std::int64_t n = std::min(width, CELLS - c);
        block.leftCols(n).noalias() = h * f.middleCols(c, n);
      }
    });
    std::printf("Eigen, %5d cells  %6.1f ms   %.2f times ours\n", int(width), ms, ms / ours_ms);
  }
}
