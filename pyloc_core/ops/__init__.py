# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Front doors of the operators: one module each, all exported flat by pyloc_core."""
