"""Limits of the options that a task is decorated and enqueued with."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from vibetuner.config import Settings
from vibetuner.errors import TaskError
from vibetuner.tasks.limits import check_enqueue, check_options, check_wait
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import TaskWorker

NAMES = ("low", "normal", "high")


@pytest.fixture
def task(fresh: None) -> Any:
    """Return a task that expires after a minute."""

    @TaskWorker(Settings()).task(name="mail", expire=60)
    async def mail() -> None: ...

    return mail


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ttl": 0, "max_schedule_drift": 0},
        {"ttl": None, "expire": None, "timeout": None, "max_tries": None},
        {"ttl": timedelta(days=30), "expire": 0.5, "timeout": timedelta(minutes=5), "max_tries": 1},
        {"name": "mail", "unique": True, "silent": True},
    ],
)
def test_valid_options_pass(options: dict[str, Any]):
    """Options within their limits pass, and options without a limit are not checked."""
    assert check_options(**options) is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ttl": -5}, ValueError, "ttl takes 0 seconds or more, not -5"),
        ({"ttl": timedelta(seconds=-1)}, ValueError, "ttl takes 0 seconds or more"),
        ({"ttl": math.inf}, ValueError, "ttl takes a finite number"),
        ({"ttl": "1h"}, TypeError, "ttl takes a number, not '1h'"),
        ({"ttl": True}, TypeError, "ttl takes a number, not True"),
        ({"expire": 0}, ValueError, "expire takes more than 0 seconds, not 0"),
        ({"timeout": -1}, ValueError, "timeout takes more than 0 seconds"),
        ({"timeout": math.nan}, ValueError, "timeout takes a finite number"),
        ({"timeout": 1_800_000_000_000}, ValueError, "timeout takes at most ten years"),
        ({"max_schedule_drift": -1}, ValueError, "max_schedule_drift takes 0 seconds or more"),
        ({"max_tries": 0}, ValueError, "max_tries takes at least 1, not 0"),
        (
            {"unique": "skip"},
            TypeError,
            "unique takes True or False, or in @robust_task.. a Unique",
        ),
        ({"unique": Unique()}, TypeError, "a Unique, not Unique.by=.., clash='skip'"),
        ({"max_tries": 2.5}, TypeError, "max_tries takes a whole number or None, not 2.5"),
    ],
)
def test_invalid_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
):
    """A wrong option raises an error with its name and its value."""
    with pytest.raises(error, match=message):
        check_options(**options)


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"delay": 0},
        {"delay": -0.001},
        {"delay": timedelta(seconds=59)},
        {"schedule": datetime(2020, 1, 1, tzinfo=UTC)},
        {"schedule": "*/5 * * * *"},
        {"priority": "high"},
        {"after": "another"},
    ],
)
def test_a_valid_call_passes(task: Any, start: dict[str, Any]):
    """A call within the limits passes, even if its time has passed."""
    assert check_enqueue(task.enqueue().start(**start), NAMES) is None


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"delay": 1_800_000_000_000}, r"mail: delay takes at most ten years, .* milliseconds"),
        ({"delay": math.nan}, "mail: delay takes a finite number"),
        ({"delay": "5m"}, "mail: delay takes a number, not '5m'"),
        (
            {"schedule": datetime(1969, 12, 31, tzinfo=UTC)},
            "mail: schedule takes a time after 1970",
        ),
        (
            {"schedule": datetime.min.replace(tzinfo=UTC)},
            "mail: schedule takes a time (after 1970|within ten years)",
        ),
        (
            {"schedule": datetime.max.replace(tzinfo=UTC)},
            "mail: schedule takes a time within ten years",
        ),
        (
            {"schedule": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))},
            "mail: schedule takes a time within ten years, not 0001-01-01",
        ),
        ({"schedule": 1_800_000_000}, "mail: schedule takes a datetime or a crontab line"),
        ({"schedule": "60 * * * *"}, "mail: The schedule '60 .* has a wrong minute"),
        (
            {"priority": "hihg"},
            "mail: tune.py declares no queue 'hihg'. Take one of low, normal, high",
        ),
        ({"delay": 60}, "mail expires after 60 s, and would be gone when it is due in 60 s"),
        (
            {"schedule": datetime.now(UTC) + timedelta(days=1)},
            r"mail expires after 60 s, .* in 8\d{4} s\. Raise expire=",
        ),
    ],
)
def test_an_invalid_call_is_refused_with_the_name_of_the_task(
    task: Any, start: dict[str, Any], message: str
):
    """A wrong option of start() raises TaskError with the task's name and the value."""
    with pytest.raises(TaskError, match=message):
        check_enqueue(task.enqueue().start(**start), NAMES)


def test_without_expire_there_is_no_limit_but_the_ten_years(fresh: None):
    """A task without `expire` may be delayed for years, whatever its timeout is."""

    @TaskWorker(Settings()).task(name="patient", timeout=1)
    async def patient() -> None: ...

    waiting = patient.enqueue().start(delay=timedelta(days=3000))
    assert check_enqueue(waiting, NAMES) is None


@pytest.mark.parametrize(
    "task_id",
    [
        pytest.param("", id="empty"),
        pytest.param("~report", id="the mark of a dependency that may fail"),
        pytest.param("a\nb", id="a line feed"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("\ud800", id="a lone surrogate"),
        pytest.param("a" * 499 + "-b", id="501 characters"),
    ],
)
def test_an_id_that_cannot_be_stored_is_refused(task: Any, task_id: str):
    """An id that can't be part of a key or of a printed command raises TaskError."""
    call = task.enqueue()
    call.id = task_id
    with pytest.raises(TaskError, match=r"mail: an id takes 1 to 500 printable characters"):
        check_enqueue(call, NAMES)


def test_other_ids_are_taken(task: Any):
    """An id may be any text of up to 500 printable characters."""
    call = task.enqueue()
    for task_id in ("order:7", "größe 2", "a" * 500, "-"):
        call.id = task_id
        check_enqueue(call, NAMES)
        assert call.id == task_id


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (math.nan, ValueError, "timeout takes a finite number, not nan"),
        (math.inf, ValueError, "timeout takes a finite number, not inf"),
        (10**400, ValueError, r"timeout takes a number of at most 1e\+300"),
        (-1, ValueError, "timeout takes 0 seconds or more, not -1"),
        (timedelta(seconds=-1), ValueError, "timeout takes 0 seconds or more"),
        ("x", TypeError, "timeout takes a number, not 'x'"),
        (True, TypeError, "timeout takes a number, not True"),
    ],
)
async def test_waits_for_an_end_are_refused_like_other_times(
    given: Any, error: type[Exception], message: str
):
    """Invalid times are refused by result() and abort(), before anything is sent."""
    with pytest.raises(error, match=message):
        check_wait(given)
    worker = TaskWorker(Settings())
    with pytest.raises(error, match=message):
        await worker.abort_by_id("some", given)
    with pytest.raises(error, match=message):
        await worker.result_by_id("some", given)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, None), (0, 0), (0.0005, 0.0005), (timedelta(minutes=1), 60), (10**9, 10**9)],
)
def test_a_wait_for_an_end_takes_any_time(timeout: Any, seconds: float | None):
    """Any finite time from 0 is taken, however short, and None for no limit."""
    assert check_wait(timeout) == seconds
