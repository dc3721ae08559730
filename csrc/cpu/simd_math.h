// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Elementary functions of packs, to a few units in the last place.
#pragma once

#include "cpu/simd.h"

PYLOC_NAMESPACE_BEGIN

// Natural logarithm of positive, finite, normal numbers. x = 2^e m with m in [sqrt(1/2), sqrt(2)), and
// ln m = 2 artanh(f), f = (m - 1) / (m + 1), |f| < 0.172: the series' first dropped term is below 2e-18.
PYLOC_INLINE PackD log_(PackD x) {
  typedef PackMask<double>::Raw Int;
  const Int bits = (Int)x.raw;
  // Subtracting the bits of sqrt(1/2) moves the break between two exponents there.
  const Int shifted = bits - 0x3fe6a09e667f3bcdLL;
  const Int exponent = shifted >> 52;
  const PackD m((PackD::Raw)(bits - (exponent << 52)));
  const PackD e(__builtin_convertvector(exponent, PackD::Raw));
  const PackD f = (m - 1.0) / (m + 1.0), f2 = f * f;
  PackD p(1.0 / 21);
  for (int k = 19; k >= 3; k -= 2) p = fma_(p, f2, PackD(1.0 / k));
  const PackD tail = f * f2 * p;
  // ln 2 in two parts: the first times any exponent is exact.
  return fma_(e, PackD(6.93147180369123816490e-01),
              fma_(e, PackD(1.90821492927058770002e-10), PackD(2.0) * (f + tail)));
}

// exp(x); 0 below -708, saturates above 709. exp(x) = 2^n exp(r), |r| <= ln(2) / 2, Taylor to degree 13.
PYLOC_INLINE PackD exp_(PackD x) {
  typedef PackMask<double>::Raw Int;
  const PackD clamped = min_(max_(x, PackD(-708.0)), PackD(709.0));
  const PackD magic(6755399441055744.0);  // 1.5 * 2^52: adding it rounds to an integer in the low bits
  const PackD rounded = fma_(clamped, PackD(1.4426950408889634074), magic);
  const PackD n = rounded - magic;
  const PackD r =
      fma_(n, PackD(-1.90821492927058770002e-10), fma_(n, PackD(-6.93147180369123816490e-01), clamped));
  PackD p(1.0 / 6227020800.0);
  const double inverse_factorial[] = {
      1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,      1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};
  for (int k = 12; k >= 0; --k) p = fma_(p, r, PackD(inverse_factorial[k]));
  const Int scaled = (Int)p.raw + ((Int)rounded.raw << 52);
  return select(x < -708.0, PackD(0.0), PackD((PackD::Raw)scaled));
}

// Natural logarithm of positive, finite, normal floats; the same series as above, cut where the first dropped
// term is below 5e-10.
PYLOC_INLINE PackF log_(PackF x) {
  const PackI shifted = bits(x) - 0x3f3504f3;  // sqrt(1/2)
  const PackI exponent = shift_right(shifted, 23);
  const PackF m = from_bits(bits(x) - shift_left(exponent, 23)), e = to_float(exponent);
  const PackF f = (m - 1.0f) / (m + 1.0f), f2 = f * f;
  PackF p(1.0f / 9);
  for (int k = 7; k >= 3; k -= 2) p = fma_(p, f2, PackF(1.0f / k));
  const PackF tail = f * f2 * p;
  return fma_(e, PackF(6.93359375e-01f), fma_(e, PackF(-2.12194440e-04f), PackF(2.0f) * (f + tail)));
}

PYLOC_NAMESPACE_END
