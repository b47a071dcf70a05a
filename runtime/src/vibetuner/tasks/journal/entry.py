"""What is written down. Pure: nothing here talks to anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

__all__ = ["Beat", "Ended", "FailedTry", "Outcome", "Started", "bucket", "bucket_ms"]


class Outcome(StrEnum):
    """How a task ended."""

    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


class Ended(NamedTuple):
    """A task that ended; moments are in milliseconds since 1970, 0 where there is none.

    Args:
        task_id: its id.
        name: the task's name.
        outcome: how it ended.
        created: when it was enqueued.
        queued: when it was due.
        started: when its last try began.
        finished: when it ended.
        tries: how often it was begun.
        worker: the worker that saw its end.
        error: what went wrong, in one line.
    """

    task_id: str
    name: str
    outcome: Outcome
    created: int
    queued: int
    started: int
    finished: int
    tries: int
    worker: str
    error: str = ""

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it back."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        values[2] = Outcome(values[2])
        return cls(*values[:10])


class Started(NamedTuple):
    """A task that a worker runs."""

    task_id: str
    name: str
    tries: int
    started: int
    queued: int

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it back."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(*json.loads(text)[:5])


class FailedTry(NamedTuple):
    """A try after which the task is tried again, or was handed back."""

    tries: int
    started: int
    finished: int
    worker: str
    error: str

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it back."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(*json.loads(text)[:5])


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a worker says of itself every few seconds, from its own event loop.

    Args:
        id: the worker's id.
        at: when it said so, in milliseconds.
        host: the machine's name.
        pid: its process.
        started: when it began, in milliseconds.
        concurrency: how many tasks it runs at the same time.
        running: how many that are right now.
        counters: completed, failed, retried, aborted since it began.
        tasks: the names that it knows.
        version: the project's version.
        code: a digest of the project's code.
        runtime: the version of vibetuner.
    """

    id: str
    at: int
    host: str = ""
    pid: int = 0
    started: int = 0
    concurrency: int = 0
    running: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    version: str = ""
    code: str = ""
    runtime: str = ""

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote; fields of other versions are left out."""
        values: dict[str, Any] = json.loads(text)
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "tasks": tuple(known.get("tasks", ()))})


def bucket(milliseconds: int) -> int:
    """The bucket of a span of time; each is a fifth wider than the one below it.

    >>> bucket(0), bucket(1), bucket(1000), bucket(1100)
    (0, 1, 40, 41)
    """
    return 0 if milliseconds < 1 else int(math.log2(milliseconds) * 4) + 1


def bucket_ms(number: int) -> float:
    """The span in the middle of a bucket, in milliseconds.

    >>> bucket_ms(0), round(bucket_ms(bucket(1000)))
    (0.0, 939)
    """
    return 0.0 if number < 1 else float(2 ** ((number - 0.5) / 4))
