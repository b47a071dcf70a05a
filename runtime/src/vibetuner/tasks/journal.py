"""The records of the journal, which :mod:`vibetuner.stored` writes and reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from vibetuner.stored import Count, Millis


class Outcome(StrEnum):
    """The end of a task."""

    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


class Ended(NamedTuple):
    """A task that ended; times are in milliseconds since 1970, 0 means none.

    Args:
        created: when it was enqueued.
        queued: when it was due.
        started: when its last attempt began.
        error: the error in one line.
    """

    task_id: str
    name: str
    outcome: Outcome
    created: Millis
    queued: Millis
    started: Millis
    finished: Millis
    tries: Count
    worker: str
    error: str = ""


class Started(NamedTuple):
    """A task that a worker runs."""

    task_id: str
    name: str
    tries: Count
    started: Millis
    queued: Millis
    queue: str = ""


class FailedTry(NamedTuple):
    """A failed attempt after which the task was retried or requeued."""

    tries: Count
    started: Millis
    finished: Millis
    worker: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A worker's heartbeat, sent every two seconds from its own event loop; times as above.

    Args:
        counters: tasks completed, failed, retried and aborted since it started.
        code: a digest of the project's code.
        runtime: the version of vibetuner.
    """

    id: str
    at: Millis
    host: str = ""
    pid: Count = 0
    started: Millis = 0
    concurrency: Count = 0
    running: Count = 0
    counters: Mapping[str, Count] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    version: str = ""
    code: str = ""
    runtime: str = ""
    queues: tuple[str, ...] = ("normal",)
    project: str = ""


@lru_cache(1000)
def bucket(milliseconds: int) -> int:
    """Return the bucket of a duration; each bucket is a fifth wider than the one below it.

    >>> bucket(0), bucket(1), bucket(1000), bucket(1100)
    (0, 1, 40, 41)
    """
    return 0 if milliseconds < 1 else int(math.log2(milliseconds) * 4) + 1


def bucket_ms(number: int) -> float:
    """Return the duration in the middle of a bucket, in milliseconds.

    >>> bucket_ms(0), round(bucket_ms(bucket(1000)))
    (0.0, 939)
    """
    return 0.0 if number < 1 else float(2 ** ((number - 0.5) / 4))
