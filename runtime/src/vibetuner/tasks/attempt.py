"""An attempt: one run of an enqueued task, with the facts about it from claim to end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, Protocol

from streaq.task import RegisteredTask

from vibetuner.tasks.engine import running_attempt
from vibetuner.tasks.retry import FailurePolicy

logger = logging.getLogger(__name__)

#: The queue and the id of a message; messages of two queues may have the same id.
Source = tuple[str, str]

UNKNOWN = "unknown"

# A function that was cancelled has this long to clean up before it is cancelled again.
CLEANUP_SECONDS = 10.0
LAST_MOMENT = 253_402_300_800_000  # the year 10000, in milliseconds


class End(StrEnum):
    """The way in which an attempt ended."""

    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    RETRYING = "retrying"
    REQUEUED = "requeued"

    __hash__ = str.__hash__  # Enum's is a Python function, and is called several times a task


class Cut(StrEnum):
    """The reason why a running function was cancelled."""

    TIME_LIMIT = "time limit"
    ABORT = "abort"
    STOP = "stop"


class Cause(StrEnum):
    """The reason why a task will not be tried again."""

    EXCEPTION = "exception"
    GAVE_UP = "gave_up"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    EXPIRED = "expired"
    UNKNOWN_FUNCTION = "unknown_function"
    UNREADABLE_PAYLOAD = "unreadable_payload"
    UNIQUE_CLASH = "unique_clash"
    CRON_DRIFT = "cron_drift"
    FAILED_DEPENDENCY = "failed_dependency"


class Report(Protocol):
    """Progress that a task has reported, and perhaps not sent yet."""

    async def settle(self, *, again: bool) -> None:
        """Send the latest state; ``again`` if another attempt follows."""


class Attempt:
    """The record of one attempt, which each step of the run reads and completes.

    A running task gets it as ``task.context``, with streaq's names: the fields ``fn_name``,
    ``task_id``, ``tries``, and the properties ``timeout`` and ``ttl``. Times are in milliseconds
    since 1970; 0 means none.

    Args:
        priority: the queue that its message came from.
        message_id: the message's id; empty for a task that ends without having been in a stream.
        payload: the signed call, as it was stored; None if it has expired.
        tries: the number of this attempt, from 1.
        is_aborted: whether somebody asked to abort the task before this attempt.
        must_fail: whether a task that this one was to follow has failed.
        has_begun: whether an earlier attempt has begun, even one that a stop has cut.
        claimed: when this worker claimed the message, by the server's clock.
        claimed_at: the time of the claim by the event loop's clock, in seconds.
    """

    # Fields that later steps set have their defaults here: most tasks never change most of them.
    fn_name: str = UNKNOWN
    task: RegisteredTask | None = None
    policy: FailurePolicy | None = None
    args: Sequence[Any] = ()
    created: int = 0
    triggers: str = ""
    otherwise: str = ""
    arguments_from: str = ""
    fallback_of: str = ""
    lock: str = ""

    context: Any = None
    history: Any = None
    started: int = 0
    finished: int = 0
    handle: asyncio.Task[None] | None = None
    cut_by: Cut | None = None
    cut_again: asyncio.TimerHandle | None = None
    was_announced: bool = False

    end: End | None = None
    value: Any = None
    error: BaseException | None = None
    cause: Cause | None = None
    retry_at: int = 0
    letter: str = ""
    following: bytes = b""
    entry: str = ""
    trace: str = ""
    is_listed: bool = False

    def __init__(  # noqa: PLR0913 - the fields of a message
        self,
        task_id: str,
        priority: str = "",
        message_id: str = "",
        *,
        queued: int = 0,
        payload: bytes | None = None,
        tries: int = 1,
        is_aborted: bool = False,
        must_fail: bool = False,
        has_begun: bool = False,
        claimed: int = 0,
        claimed_at: float = 0.0,
    ) -> None:
        self.task_id = task_id
        self.priority = priority
        self.message_id = message_id
        self.source: Source = (priority, message_id)
        self.queued = queued
        self.payload = payload
        self.tries = tries
        self.is_aborted = is_aborted
        self.must_fail = must_fail
        self.has_begun = has_begun
        self.claimed = claimed
        self.claimed_at = claimed_at
        self.kwargs: Mapping[str, Any] = {}
        self.reports: list[Report] = []

    @property
    def is_silent(self) -> bool:
        """Return whether the task writes no log lines."""
        return self.task is not None and self.task.silent

    @property
    def timeout(self) -> timedelta | int | None:
        """The time limit of the task, as it was declared."""
        return None if self.task is None else self.task.timeout

    @property
    def ttl(self) -> timedelta | int | None:
        """Return how long the task's result is kept, as it was declared."""
        return None if self.task is None else self.task.ttl

    def name_task(self, name: str, task: RegisteredTask | None) -> None:
        """Set the name of the task, and the task if this worker knows it."""
        self.fn_name, self.task = name, task
        self.policy = getattr(task, "failure_policy", None)

    def cut(self, by: Cut) -> None:
        """Cancel the attempt, unless it was cancelled before; its cleanup has ten seconds.

        An abort comes too late for an attempt that has an end, whose on_failure may still run.
        """
        if self.cut_by is not None or self.handle is None:
            return
        if by is Cut.ABORT and self.end is not None:
            return
        self.cut_by = by
        # A coroutine that is cancelled before its first step never runs, and would record no end.
        # In its first step, the executor sees cut_by.
        coroutine: Any = self.handle.get_coro()
        if inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
            self.handle.cancel()
        loop = asyncio.get_running_loop()
        self.cut_again = loop.call_later(CLEANUP_SECONDS, self._cut_again)

    def _cut_again(self) -> None:
        if self.handle is not None and not self.handle.done():
            logger.warning(
                "%s is still cleaning up %g s after its %s; cancelling it again",
                self.fn_name,
                CLEANUP_SECONDS,
                self.cut_by,
                extra={"task_id": self.task_id},
            )
            self.handle.cancel()


def moment(value: float) -> int:
    """Check a time in milliseconds since 1970, and return it as an int.

    Raises:
        TypeError, ValueError: ``value`` is no number, or is before 1970 or after the year 9999.

    >>> moment(1_700_000_000_000)
    1700000000000
    """
    whole = int(value)
    if not 0 <= whole < LAST_MOMENT:
        raise ValueError("a moment out of range")
    return whole


def current_attempt() -> Attempt | None:
    """Return the attempt that is running here; None outside a worker's task."""
    attempt = running_attempt.get(None)
    return attempt if isinstance(attempt, Attempt) else None


def current_task_id() -> str:
    """Return the id of the task that is running here; empty outside a task."""
    attempt = running_attempt.get(None)
    return "" if attempt is None else attempt.task_id
