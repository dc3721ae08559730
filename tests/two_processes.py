# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A training program run by one process and, beside it, by two that talk through gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def start(program: str, folder: Path, rank: int, count: int, port: int) -> subprocess.Popen:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if count > 1:
        environment |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], env=environment, stderr=subprocess.PIPE
    )


def run_as_one_and_two(program: str, tmp_path: Path) -> dict[int, Path]:
    """Number of processes -> the folder, given as the program's argument, that they wrote to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {1: tmp_path / "one", 2: tmp_path / "two"}
    for folder in folders.values():
        folder.mkdir()
    running = [
        start(program, folders[1], 0, 1, port),
        *(start(program, folders[2], rank, 2, port) for rank in (0, 1)),
    ]
    for process in running:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error.decode()
    return folders
