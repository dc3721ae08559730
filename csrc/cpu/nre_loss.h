// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// The NRE training loss (thesis Eq. 4.10), forward and backward: for every point the log-sum-exp of its
// correlation map minus the bilinear value of the map at the target.
//
// Both directions recompute the correlations tile by tile. The forward pass keeps, beside the running
// log-sum-exp, the mean of the features under the softmax (as attention does with its values): the gradient
// of the descriptors is that mean minus the features at the target, so the backward pass has to form the
// gradient of the features alone. Four matrix products in all, O(B N D + H W) memory.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace pyloc::cpu {

struct NreProblem {
  const void* descriptors;  // (B, N, D), C-contiguous
  int descriptor_dtype;     // DType of pyloc/config.h; float64 for both or for none
  const void* features;     // (B, D, H, W), strides in elements; the flat cell y * W + x at (y * W + x) *
  int feature_dtype;        // cell_stride
  std::int64_t item_stride, plane_stride, cell_stride;
  const double* targets;          // (B, N, 2), relative to the map's origin
  const std::int64_t* num_valid;  // (B), points of each item that count; null: all
  std::int64_t batch, count, depth, height, width;
  double temperature;
  bool mask_outside;  // targets outside the map: loss and gradients 0, otherwise NaN
  int num_threads;    // <= 0: the default
};

struct NreForward {
  double* loss;               // (B, N)
  double* statistics;         // (B, N, 2): largest <h, F(p)>, ln of the sum of exp((<h, F(p)> - largest) / T)
  std::uint8_t* counted;      // (B, N): 0 for points masked or beyond num_valid
  double* target_jacobian;    // (B, N, 2): dloss_n / dtarget_n
  void* descriptor_jacobian;  // (B, N, D): dloss_n / dh_n, float32 (float64 for float64 operands); or null
};

struct NreBackward {
  const double* loss_gradient;  // (B, N)
  const double* statistics;
  void* feature_gradient;  // in the features' dtype and with their strides
  std::int64_t item_stride, plane_stride, cell_stride;
};

struct NreLossKernels {
  // A CorrelationStatus.
  int (*forward)(const NreProblem& problem, const NreForward& out);
  int (*backward)(const NreProblem& problem, const NreBackward& out);
};

}  // namespace pyloc::cpu
PYLOC_DECLARE_KERNELS(NreLossKernels, nre_loss_kernels)
