"""The log lines about starts and ends of tasks."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from vibetuner.tasks.attempt import Attempt, End
from vibetuner.tasks.observers.log import LogObserver
from vibetuner.tasks.observers.log import logger as log


def attempt(*, silent: bool = False, **known: Any) -> Attempt:
    """Return an attempt of the task mail."""
    one = Attempt("t1", tries=known.pop("tries", 1))
    one.name_task("mail", SimpleNamespace(silent=silent, failure_policy=None))  # type: ignore[arg-type]
    one.started, one.finished = 1000, 1012
    for name, value in known.items():
        setattr(one, name, value)
    return one


@pytest.mark.parametrize(
    ("level", "lines"), [(logging.DEBUG, ["mail started"]), (logging.INFO, [])]
)
def test_each_start_has_a_line_at_debug(
    caplog: pytest.LogCaptureFixture, level: int, lines: list[str]
):
    """A start is logged at DEBUG, or else once at INFO when the task has run for a second."""
    caplog.set_level(level, log.name)
    observer, one = LogObserver(), attempt()
    observer.started(one)
    assert caplog.messages == lines
    observer.sweep([one], 1999)
    assert caplog.messages == lines
    for _ in range(2):
        observer.sweep([one, attempt(started=0)], 2000)
    assert caplog.messages == ["mail started"]


def test_a_later_start_names_its_attempt(caplog: pytest.LogCaptureFixture):
    """The line of a second attempt has its number, and without a policy no maximum."""
    caplog.set_level(logging.INFO, log.name)
    LogObserver().sweep([attempt(tries=2)], 9000)
    assert caplog.messages == ["mail started (attempt 2)"]


@pytest.mark.parametrize("end", [End.DONE, End.FAILED, End.ABORTED, End.RETRYING])
def test_a_silent_task_writes_no_line(caplog: pytest.LogCaptureFixture, end: End):
    """A silent task logs neither its start nor its end."""
    caplog.set_level(logging.DEBUG, log.name)
    observer, one = LogObserver(), attempt(silent=True, end=end, error=ValueError("no"))
    observer.started(one)
    observer.sweep([one], 9000)
    observer.ended(one)
    assert caplog.messages == []
