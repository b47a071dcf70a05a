"""How one try of a task has ended, as the engine tells it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streaq.types import StreamMessage

__all__ = ["TryEnd"]


@dataclass(slots=True, kw_only=True)
class TryEnd:
    """The end of one try; its fields have the names that streaq 7.2 gives them.

    Args:
        message: what was read from the queue.
        payload: what was enqueued, as it was stored.
        finish: whether the task has ended with it.
        schedule: when it is tried again, in milliseconds; None, unless it has ended, is at once.
        return_value: the result, or the error.
        silent: whether nothing is logged of it.
        ttl: how long the result is kept.
        triggers: the task that gets the result as its arguments.
        lock_key: what a unique task holds.
        otherwise: the task that runs only where this one fails.
    """

    message: StreamMessage
    fn_name: str
    tries: int
    payload: bytes | None = None
    finish: bool = True
    schedule: int | None = None
    return_value: Any = None
    success: bool = True
    start_time: int = 0
    finish_time: int = 0
    created_time: int = 0
    silent: bool = False
    ttl: timedelta | int | None = None
    triggers: str | None = None
    lock_key: str | None = None
    otherwise: str | None = None
