# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels with their launchers, one module per operator, imported on first use."""
