# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Readable float64 implementations on torch: the oracle of the tests. Imported on request only."""
