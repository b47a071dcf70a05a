"""Limits of a task's options and calls. Pure: checked before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from streaq.task import Task

from vibetuner.crontab import check_crontab
from vibetuner.errors import TaskError
from vibetuner.tasks.queues import default_queue, list_queues
from vibetuner.tasks.retry import check_number, policy_of
from vibetuner.timing import EPOCH

# A longer time is a mistake, such as milliseconds for seconds, or a timestamp for a duration.
LONGEST = timedelta(days=3653)

# The durations that decorators take, and whether 0 is allowed: with ttl=0 a result is not kept, and
# a drift of 0 allows none.
DURATIONS = {
    "expire": False, "timeout": False, "ttl": True, "max_schedule_drift": True, "backoff_max": True,
}  # fmt: skip
LONGEST_ID = 500
SWITCHES = ("silent", "retry_timeouts")
# The server counts in milliseconds; it reads a shorter time as 0, which can mean for ever.
SHORTEST_SECONDS = 0.001


def check_options(**task_kwargs: Any) -> None:
    """Check the options of ``@worker.task()`` or ``@worker.cron()``; ignore others.

    Raises:
        TypeError: a value has a wrong type, or ``unique`` is a Unique, for robust tasks only.
        ValueError: a duration is negative, infinite, over ten years or under a millisecond,
            ``max_tries`` is below 1, or the name can't be printed.

    >>> check_options(ttl=None, timeout=timedelta(minutes=5), max_tries=3)
    >>> check_options(ttl=-5)
    Traceback (most recent call last):
    ValueError: ttl takes 0 seconds or more, not -5
    """
    for name, may_be_zero in DURATIONS.items():
        if (given := task_kwargs.get(name)) is not None:
            _check_duration(name, given, may_be_zero=may_be_zero)
    if (given := task_kwargs.get("name")) is not None:
        _check_name(given)
    for switch in SWITCHES:
        if not isinstance(given := task_kwargs.get(switch, False), bool):
            raise TypeError(f"{switch} takes True or False, not {given!r}")
    queue = task_kwargs.get("queue")
    if queue is not None and not (isinstance(queue, str) and queue):
        raise TypeError(f"queue= takes the name of a queue, not {queue!r}")
    if not isinstance(unique := task_kwargs.get("unique", False), bool):
        raise TypeError(
            f"unique takes True or False, or in @robust_task() a Unique, not {unique!r}"
        )
    tries = task_kwargs.get("max_tries")
    if tries is not None:
        if isinstance(tries, bool) or not isinstance(tries, int):
            raise TypeError(f"max_tries takes a whole number or None, not {tries!r}")
        if tries < 1:
            raise ValueError(f"max_tries takes at least 1, not {tries}")


def check_enqueue(task: Task[Any, Any], priorities: Sequence[str]) -> None:
    """Check the arguments of ``task.enqueue(...).start(...)`` and set the call's queue.

    Raises TaskError if the id can't be stored; the project does not declare the queue; the delay or
    schedule is invalid, before 1970 or over ten years away; or it lies after the expiry of a task
    that is not robust.
    """
    name = task.parent.fn_name
    if not task.id.isalnum():  # ids that enqueue() makes are alphanumeric
        _check_id(name, task.id)
    queue = task.priority or getattr(task.parent, "queue", "")
    if not queue:
        queue = priorities[0] if len(priorities) == 1 else default_queue(priorities)
    task.priority = queue
    if queue not in priorities:
        raise TaskError(f"{name}: tune.py declares no queue {queue!r}. {list_queues(priorities)}")
    if task.delay is None and task.schedule is None:
        return
    try:
        wait = _wait(task)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{name}: {error}") from None
    if policy_of(task.parent) is not None:  # its expire= counts from the time when it is due
        return
    expire = _span(task.parent.expire)
    if wait is not None and expire and wait >= expire:
        raise TaskError(
            f"{name} expires after {expire.total_seconds():g} s, and would be gone when it is due "
            f"in {wait.total_seconds():.0f} s. Raise expire=, or wait less"
        )


def _check_id(name: str, task_id: str) -> None:
    if not task_id or len(task_id) > LONGEST_ID or not task_id.isprintable() or task_id[0] == "~":
        raise TaskError(
            f"{name}: an id takes 1 to {LONGEST_ID} printable characters, the first of them no ~, "
            f"not {task_id[:60]!r}"
        )


def _wait(task: Task[Any, Any]) -> timedelta | None:
    """Return how long a call waits; None for a call that a crontab line repeats."""
    if task.delay is not None:
        _check_duration("delay", task.delay, may_be_negative=True)
        return _span(task.delay)
    if isinstance(task.schedule, str):
        check_crontab(task.schedule)
        return None
    return _until(task.schedule)


def _until(schedule: Any) -> timedelta:
    if not isinstance(schedule, datetime):
        raise TypeError(f"schedule takes a datetime or a crontab line, not {schedule!r}")
    try:
        moment = schedule.astimezone(UTC)
    except (OverflowError, ValueError):
        raise ValueError(f"schedule takes a time within ten years, not {schedule}") from None
    wait = moment - datetime.now(UTC)
    if moment < EPOCH:
        raise ValueError(f"schedule takes a time after 1970, not {schedule}")
    if wait > LONGEST:
        raise ValueError(f"schedule takes a time within ten years, not {schedule}")
    return wait


def _check_duration(
    name: str, given: Any, *, may_be_zero: bool = False, may_be_negative: bool = False
) -> None:
    """Check a delay; it may be negative, as a deadline that has just passed is due now."""
    seconds = given.total_seconds() if isinstance(given, timedelta) else check_number(name, given)
    if seconds > LONGEST.total_seconds():
        raise ValueError(
            f"{name} takes at most ten years, not {given!r}; it is in seconds: for milliseconds, "
            "pass timedelta(milliseconds=...)"
        )
    if may_be_negative or seconds >= SHORTEST_SECONDS or (seconds == 0 and may_be_zero):
        return
    lowest = "0 seconds or more" if may_be_zero else "more than 0 seconds"
    if seconds > 0:
        lowest = f"{SHORTEST_SECONDS:g} seconds or more"
    raise ValueError(f"{name} takes {lowest}, not {given!r}")


def check_wait(timeout: Any) -> float | None:
    """Return the seconds that ``result()`` or ``abort()`` waits; None for as long as it takes.

    Raises:
        TypeError: ``timeout`` is neither a number nor a timedelta nor None.
        ValueError: it is negative, infinite or NaN.

    >>> check_wait(timedelta(minutes=1))
    60.0
    >>> check_wait(-5)
    Traceback (most recent call last):
    ValueError: timeout takes 0 seconds or more, not -5
    """
    if timeout is None:
        return None
    is_span = isinstance(timeout, timedelta)
    seconds: float = timeout.total_seconds() if is_span else check_number("timeout", timeout)
    if seconds < 0:
        raise ValueError(f"timeout takes 0 seconds or more, not {timeout!r}")
    return seconds


def _check_name(name: Any) -> None:
    """Check the name of a task, which is stored, signed and typed on the command line."""
    if not isinstance(name, str):
        raise TypeError(f"name takes a text, not {name!r}")
    if not name or not name.isprintable():
        raise ValueError(f"name takes printable characters, not {name!r}")


def _span(given: timedelta | float | None) -> timedelta | None:
    if given is None or isinstance(given, timedelta):
        return given
    return timedelta(seconds=given)
