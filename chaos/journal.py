"""The record of a run, independent of Redis: each event is a line of JSON, from any process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["CHANNEL", "JOURNAL", "QUEUES", "note", "read_notes"]

# The environment variable that has the file's path for every process of a run.
JOURNAL = "CHAOS_JOURNAL"

# The queues of the project, highest first.
QUEUES = ("urgent", "normal", "bulk")

# The channel of the project's events.
CHANNEL = "told"

Note = dict[str, Any]


def note(what: str, **facts: Any) -> None:
    """Append a line; with O_APPEND, lines of several processes don't mix."""
    entry = {"at": round(time.time(), 4), "what": what, "pid": os.getpid(), **facts}
    os.write(_open_journal(os.environ[JOURNAL]), json.dumps(entry).encode() + b"\n")


def read_notes(path: Path) -> Iterator[Note]:
    """Yield every line of a journal, except one that is still being written."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


@cache
def _open_journal(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
