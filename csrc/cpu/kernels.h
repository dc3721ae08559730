// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// How an operator's kernels are compiled per instruction set and chosen at run time.
//   foo.h    struct FooKernels { void (*run)(...); };
//            PYLOC_DECLARE_KERNELS(FooKernels, foo_kernels)
//   foo.cpp  namespace pyloc::cpu::PYLOC_ISA {
//            const FooKernels& foo_kernels() { static constexpr FooKernels k{&run}; return k; }
//            }
//   caller   pyloc::cpu::foo_kernels().run(...)
#pragma once

#include "runtime/isa.h"

#if defined(PYLOC_X86_VARIANTS)
#define PYLOC_DECLARE_KERNELS(Table, name)  \
  namespace pyloc::cpu {                    \
  namespace baseline {                      \
  const Table& name();                      \
  }                                         \
  namespace avx2 {                          \
  const Table& name();                      \
  }                                         \
  namespace avx512 {                        \
  const Table& name();                      \
  }                                         \
  static inline const Table& name() {       \
    switch (pyloc::runtime::active_isa()) { \
      case pyloc::runtime::Isa::kAvx512:    \
        return avx512::name();              \
      case pyloc::runtime::Isa::kAvx2:      \
        return avx2::name();                \
      default:                              \
        return baseline::name();            \
    }                                       \
  }                                         \
  }
#else
#define PYLOC_DECLARE_KERNELS(Table, name)                       \
  namespace pyloc::cpu {                                         \
  namespace baseline {                                           \
  const Table& name();                                           \
  }                                                              \
  static inline const Table& name() { return baseline::name(); } \
  }
#endif
