"""The task that every adaptor measures: it appends the time of each run to a file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from struct import pack

URL = os.environ.get("BENCH_URL", "")
TUNED = os.environ.get("BENCH_TUNED") == "yes"
MARKS = Path(os.environ.get("BENCH_MARKS", os.devnull))
CONCURRENCY = 32
BIN = Path(sys.executable).parent
_opened: list[int] = []


def note() -> None:
    """Append the current time to the file: one write, atomic between threads and processes."""
    if not _opened:
        _opened.append(os.open(MARKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    os.write(_opened[0], pack("d", time.monotonic()))
