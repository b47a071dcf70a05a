"""A MongoDB-protocol server for single tests, which may freeze or kill it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import free_port
from tests.waiting import wait_until
from vibetuner.embedded.servers import mongo_pid

__all__ = ["running_mongo"]

START_SECONDS = 60.0


@contextmanager
def running_mongo(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield the URL and the process of an embedded server; skip if its package is missing."""
    pytest.importorskip("secantus", reason="the embedded MongoDB has no package for this Python")
    folder.mkdir()
    port = free_port()
    module = [sys.executable, "-P", "-m", "vibetuner.embedded.mongo"]
    server = subprocess.Popen(
        [*module, str(folder), str(port), str(os.getpid())], stdin=subprocess.DEVNULL
    )
    try:
        wait_until(
            lambda: mongo_pid(port) == server.pid, seconds=START_SECONDS, what=lambda: "MongoDB"
        )
        yield f"mongodb://127.0.0.1:{port}/shop?directConnection=true", server
    finally:
        server.kill()
        server.wait()
