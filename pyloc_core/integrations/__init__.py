# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Bridges to other programs, each a module that is imported by those who have the program."""
