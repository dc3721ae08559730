// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "cpu/tile_product.h"

// Compiled for the baseline; the other instruction sets are covered through Python.
namespace {

using namespace pyloc;

struct Sizes {
  int rows, cells, depth;
};

class TileProduct : public ::testing::TestWithParam<Sizes> {};

std::vector<float> random_values(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

TEST_P(TileProduct, EqualsTheSumOfProductsForBothLayouts) {
  const auto [n, m, depth] = GetParam();
  const auto kind = TileOperand::kFloat32;
  const auto a = random_values(std::size_t(n) * depth, 1), b = random_values(std::size_t(m) * depth, 2);
  Scratch<char> rows(packed_bytes(kind, n, depth, tile_rows(kind)));
  Scratch<char> cells(packed_bytes(kind, m, depth, tile_columns(kind)));
  const std::int64_t ld = round_up(m, kTileUnit);
  Scratch<float> tile(round_up(n, tile_rows(kind)) * ld);
  pack_rows(kind, {a.data(), kFloat32, depth, 1}, 0, n, depth, rows.data());
  for (const bool channels_last : {false, true}) {
    // b[c * depth + k] read as channels last, b[k * m + c] as planes.
    const TileSource source =
        channels_last ? TileSource{b.data(), kFloat32, depth, 1} : TileSource{b.data(), kFloat32, 1, m};
    float largest = 0;
    for (float v : b) largest = std::max(largest, std::fabs(v));
    EXPECT_EQ(pack_columns(kind, source, 0, m, depth, cells.data()), largest);
    tile_product(kind, rows.data(), n, cells.data(), m, depth, tile.data(), ld);
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < m; ++c) {
        double sum = 0, size = 0;
        for (int k = 0; k < depth; ++k) {
          const double p = double(a[r * depth + k]) * (channels_last ? b[c * depth + k] : b[k * m + c]);
          sum += p;
          size += std::fabs(p);
        }
        ASSERT_NEAR(tile[r * ld + c], sum, 1e-6 * size * std::sqrt(depth)) << r << ' ' << c;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, TileProduct,
                         ::testing::Values(Sizes{1, 1, 1}, Sizes{7, 33, 3}, Sizes{8, 48, 128},
                                           Sizes{13, 97, 129}, Sizes{64, 200, 300}));

TEST(TilePack, HalfPrecisionIsReadExactlyAndNonFiniteIsSeen) {
  const std::vector<std::uint16_t> half = {0x3c00, 0xc000, 0x0001, 0x7bff};  // 1, -2, 2^-24, 65504
  Scratch<float> out(packed_bytes(TileOperand::kFloat32, 4, 1, kPanelRows) / 4);
  EXPECT_EQ(pack_rows(TileOperand::kFloat32, {half.data(), kFloat16, 1, 1}, 0, 4, 1, out.data()), 65504.0f);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], std::ldexp(1.0f, -24));
  EXPECT_EQ(out[4], 0.0f);
  for (const std::uint16_t bad : {0x7c00, 0xfc00, 0x7e01}) {
    const std::vector<std::uint16_t> values = {0x3c00, bad};
    EXPECT_FALSE(std::isfinite(
        pack_rows(TileOperand::kFloat32, {values.data(), kFloat16, 1, 1}, 0, 2, 1, out.data())));
  }
}

}  // namespace
