"""The run's own record, independent of Redis: one line of JSON a happening, from any process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["JOURNAL", "note", "read_notes"]

# The environment variable that tells every process of a run where the file is.
JOURNAL = "CHAOS_JOURNAL"

Note = dict[str, Any]


def note(what: str, **facts: Any) -> None:
    """Append a line; O_APPEND keeps the lines of many processes apart."""
    entry = {"at": round(time.time(), 4), "what": what, "pid": os.getpid(), **facts}
    os.write(_open_journal(os.environ[JOURNAL]), json.dumps(entry).encode() + b"\n")


def read_notes(path: Path) -> Iterator[Note]:
    """Every line of a journal, as it was written; one that is being written is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


@cache
def _open_journal(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
