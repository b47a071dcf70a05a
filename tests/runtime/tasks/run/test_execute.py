"""The outcome of an attempt, and the time of the next one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coredis.exceptions import RedisError
from streaq import StreaqError, StreaqRetry
from streaq.types import StreaqCancelled

from vibetuner.errors import GiveUp
from vibetuner.tasks.attempt import Attempt, Cause, Cut, End
from vibetuner.tasks.retry import ErrorRules, FailurePolicy, RetryPolicy
from vibetuner.tasks.run.execute import judge

STARTED, FINISHED = 500, 1000


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """Return the error with a cause."""
    error.__cause__ = cause
    return error


def busy(seconds: float) -> Exception:
    """Return an error that names the seconds to wait."""
    error = OSError("busy")
    error.retry_after = seconds  # type: ignore[attr-defined]
    return error


class Evasive(Exception):
    """An error whose attributes raise."""

    @property
    def retry_after(self) -> float:
        raise RuntimeError("not known yet")


def judged(
    error: BaseException | None, max_tries: int = 0, rules: ErrorRules | None = None, **known: Any
) -> Attempt:
    """Return a second attempt with its end; with ``max_tries``, it belongs to a robust task."""
    attempt = Attempt("1", "normal", "1-0", tries=2)
    attempt.error, attempt.started, attempt.finished = error, STARTED, FINISHED
    if max_tries:
        attempt.policy = FailurePolicy(retry=RetryPolicy(max_tries=max_tries), errors=rules)
    for name, value in known.items():
        setattr(attempt, name, value)
    judge(attempt, lambda: 0.0)
    return attempt


@pytest.mark.parametrize(
    ("attempt", "end", "cause"),
    [
        (judged(None), End.DONE, None),
        (judged(ValueError()), End.FAILED, Cause.EXCEPTION),
        (judged(SystemExit()), End.FAILED, Cause.EXCEPTION),
        (judged(ValueError(), 2), End.FAILED, Cause.EXCEPTION),
        (judged(ValueError(), 3), End.RETRYING, Cause.EXCEPTION),
        (judged(asyncio.CancelledError(), 3, cut_by=Cut.STOP), End.REQUEUED, None),
        (judged(asyncio.CancelledError(), 3, cut_by=Cut.ABORT), End.ABORTED, None),
        (judged(asyncio.CancelledError(), cut_by=Cut.TIME_LIMIT), End.FAILED, Cause.TIMEOUT),
        (judged(asyncio.CancelledError(), 3, cut_by=Cut.TIME_LIMIT), End.RETRYING, Cause.TIMEOUT),
        (judged(StreaqCancelled(), 3), End.ABORTED, None),
        (judged(StreaqError(), 3, cause=Cause.EXPIRED), End.FAILED, Cause.EXPIRED),
        (judged(RedisError(), started=0), End.REQUEUED, None),
        (judged(OSError(), started=0), End.REQUEUED, None),
        (judged(ValueError(), started=0), End.FAILED, Cause.EXCEPTION),
        (judged(OSError()), End.FAILED, Cause.EXCEPTION),
        (judged(GiveUp(), 3), End.FAILED, Cause.GAVE_UP),
        (judged(GiveUp()), End.FAILED, Cause.EXCEPTION),
        (judged(OSError(), 3, ErrorRules(give_up_on=OSError)), End.FAILED, Cause.GAVE_UP),
        (judged(KeyError(), 3, ErrorRules(give_up_on=OSError)), End.RETRYING, Cause.EXCEPTION),
    ],
)
def test_an_attempt_has_one_end(attempt: Attempt, end: End, cause: Cause | None):
    """The end of an attempt follows from its cut, its exception, and the tries that are left."""
    assert (attempt.end, attempt.cause) == (end, cause)


@pytest.mark.parametrize(
    ("attempt", "milliseconds"),
    [
        (judged(StreaqRetry()), 4000),
        (judged(StreaqRetry(delay=0)), 0),
        (judged(StreaqRetry(delay=timedelta(seconds=7))), 7000),
        (judged(StreaqRetry(delay=7), 3), 7000),
        (judged(StreaqRetry(schedule=datetime.fromtimestamp(9, UTC))), 8000),
        (judged(busy(9), 3), 9000),
        (judged(ValueError(), 3), 4000),
        (judged(StreaqRetry(delay="soon"), 3), 4000),  # type: ignore[arg-type]
        (judged(StreaqRetry(delay=10**400)), 4000),
        (judged(Evasive(), 3), 4000),
        (judged(StreaqRetry(schedule="* * * * *")), 4000),  # type: ignore[arg-type]
        (judged(StreaqRetry(schedule=datetime.max.replace(tzinfo=UTC))), 4000),
    ],
)
def test_the_next_attempt_has_a_time(attempt: Attempt, milliseconds: int):
    """The time of a retry comes from the error, else from the backoff, else from the tries.

    A time that can't be used counts as none.
    """
    assert (attempt.end, attempt.retry_at) == (End.RETRYING, FINISHED + milliseconds)


def test_a_request_for_another_attempt_is_not_the_error():
    """The error of an attempt that raised StreaqRetry is the cause, or else the request itself."""
    cause = ValueError("the till is empty")
    assert judged(caused(StreaqRetry(), cause), 3).error is cause
    assert judged(caused(StreaqRetry(), cause), 2).error is cause
    asked = StreaqRetry("later")
    assert judged(asked, 3).error is asked
    assert str(judged(asked, 2).error) == "It asked for another try, and none was left: later"


def test_an_attempt_that_was_cut_names_the_reason():
    """The error of a cut attempt is an abort or a timeout, not asyncio's cancellation."""
    aborted = judged(asyncio.CancelledError(), cut_by=Cut.ABORT).error
    assert repr(aborted) == "StreaqCancelled('Task aborted by user!')"
    late = judged(asyncio.CancelledError(), cut_by=Cut.TIME_LIMIT).error
    assert repr(late) == "TimeoutError('Task timed out!')"
    robust = judged(asyncio.CancelledError(), 2, cut_by=Cut.TIME_LIMIT, fn_name="mail").error
    assert repr(robust) == "TimeoutError('mail took longer than 0 s')"
