// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Dense solvers for the sizes a pose needs. Fixed size, no allocation, row-major.
#pragma once

#include "pyloc/config.h"

PYLOC_NAMESPACE_BEGIN

// Lower Cholesky factor of a symmetric positive definite matrix (only the lower triangle is read).
// False when a pivot is not positive: the matrix is singular, indefinite or not finite.
template <int N, class T>
PYLOC_HD inline bool cholesky(const T* A, T* L) {
  for (int r = 0; r < N; ++r) {
    for (int c = 0; c <= r; ++c) {
      T sum = A[r * N + c];
      for (int k = 0; k < c; ++k) sum -= L[r * N + k] * L[c * N + k];
      if (r == c) {
        if (!(sum > T(0)) || !isfinite_(sum)) return false;
        L[r * N + r] = sqrt_(sum);
      } else {
        L[r * N + c] = sum / L[c * N + c];
      }
    }
    for (int c = r + 1; c < N; ++c) L[r * N + c] = T(0);
  }
  return true;
}

// Solves A x = b for a symmetric positive definite A. x may alias b.
template <int N, class T>
PYLOC_HD inline bool cholesky_solve(const T* A, const T* b, T* x) {
  T L[N * N];
  if (!cholesky<N>(A, L)) return false;
  for (int r = 0; r < N; ++r) {
    T sum = b[r];
    for (int k = 0; k < r; ++k) sum -= L[r * N + k] * x[k];
    x[r] = sum / L[r * N + r];
  }
  for (int r = N - 1; r >= 0; --r) {
    T sum = x[r];
    for (int k = r + 1; k < N; ++k) sum -= L[k * N + r] * x[k];
    x[r] = sum / L[r * N + r];
  }
  return true;
}

// Inverse of a symmetric positive definite matrix. Rows are scaled to a unit diagonal first, so that a
// pose whose translation is in kilometres and whose rotation is in radians does not look singular.
template <int N, class T>
PYLOC_HD inline bool spd_inverse(const T* A, T* Ainv) {
  T scale[N], S[N * N];
  for (int r = 0; r < N; ++r) {
    if (!(A[r * N + r] > T(0)) || !isfinite_(A[r * N + r])) return false;
    scale[r] = T(1) / sqrt_(A[r * N + r]);
  }
  for (int r = 0; r < N; ++r)
    for (int c = 0; c < N; ++c) S[r * N + c] = A[r * N + c] * scale[r] * scale[c];
  T L[N * N];
  if (!cholesky<N>(S, L)) return false;
  for (int c = 0; c < N; ++c) {
    T x[N];
    for (int r = 0; r < N; ++r) {
      T sum = r == c ? T(1) : T(0);
      for (int k = 0; k < r; ++k) sum -= L[r * N + k] * x[k];
      x[r] = sum / L[r * N + r];
    }
    for (int r = N - 1; r >= 0; --r) {
      T sum = x[r];
      for (int k = r + 1; k < N; ++k) sum -= L[k * N + r] * x[k];
      x[r] = sum / L[r * N + r];
    }
    for (int r = 0; r < N; ++r) Ainv[r * N + c] = x[r] * scale[r] * scale[c];
  }
  for (int r = 0; r < N; ++r)
    for (int c = 0; c < r; ++c)
      Ainv[r * N + c] = Ainv[c * N + r] = T(0.5) * (Ainv[r * N + c] + Ainv[c * N + r]);
  return true;
}

// Nearest positive semi-definite matrix (Frobenius norm) of [[a, b], [b, c]]: negative eigenvalues
// become zero.
template <class T>
PYLOC_HD inline void project_psd2(T& a, T& b, T& c) {
  const T mean = T(0.5) * (a + c), half = T(0.5) * (a - c);
  const T radius = sqrt_(half * half + b * b);
  const T low = mean - radius, high = mean + radius;
  if (low >= T(0)) return;
  if (!(high > T(0))) {
    a = b = c = T(0);
    return;
  }
  // high * v v^T with the projector v v^T = (M - low I) / (high - low).
  const T s = high / (high - low);
  a = s * (a - low);
  b = s * b;
  c = s * (c - low);
}

PYLOC_NAMESPACE_END
