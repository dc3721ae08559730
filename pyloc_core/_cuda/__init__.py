# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Launchers of the CUDA C++ kernels in `pyloc_core._native_cuda`, one module per operator."""
