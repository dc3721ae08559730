// SPDX-FileCopyrightText: 2026 The pyloc_core authors
// SPDX-License-Identifier: Apache-2.0
// Which instruction set the kernels run with: the best the processor and the operating system support,
// or a lower one that the user asked for (PYLOC_ISA=baseline|avx2|avx512, or set_isa).
#pragma once

namespace pyloc::runtime {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

Isa best_isa();
Isa active_isa();
// False when the processor cannot run it; the active set is then unchanged.
bool set_isa(Isa isa);
const char* isa_name(Isa isa);
bool isa_from_name(const char* name, Isa& isa);

bool has_avx512_bf16();
// Tile registers present, and the kernel has granted this process their use.
bool has_amx_bf16();

}  // namespace pyloc::runtime
