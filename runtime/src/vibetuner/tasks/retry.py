"""Decides what follows a failure: pure functions that get the time and chance passed in."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Protocol

from streaq import StreaqRetry

from vibetuner.errors import GiveUp
from vibetuner.tasks.unique import Unique

__all__ = [
    "ErrorRules",
    "FailurePolicy",
    "OnFailure",
    "RetryLater",
    "RetryPolicy",
    "check_number",
    "named_wait",
    "policy_of",
    "set_policy",
    "wanted_arguments",
]


class FailureWithArguments(Protocol):
    """The type of an ``on_failure`` that also gets the task's arguments."""

    def __call__(
        self,
        task_name: str,
        task_id: str,
        error: Exception,
        /,
        *,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any: ...


OnFailure = Callable[[str, str, Exception], Any] | FailureWithArguments
Errors = type[BaseException] | tuple[type[BaseException], ...]

# A server may name any time for a retry; a task waits at most this long for it.
LONGEST_NAMED = timedelta(days=1)
LONGEST_LATER = timedelta(days=3653)
# Larger whole numbers are not converted to a float.
LARGEST = 1e300


class RetryLater(StreaqRetry):
    """Raised by a task to be tried again after a given time; the attempt counts as a try.

    Args:
        reason: for the log and the journal.
        after: how long to wait, as a timedelta or in seconds.

    Raises:
        TypeError, ValueError: ``after`` is not a duration from 0 to ten years.
    """

    def __init__(self, reason: str = "", *, after: timedelta | float) -> None:
        wait = after
        if not isinstance(wait, timedelta):
            beyond = 2 * LONGEST_LATER.total_seconds()
            wait = timedelta(seconds=max(-1, min(check_number("after", wait), beyond)))
        if not timedelta(0) <= wait <= LONGEST_LATER:
            raise ValueError(f"after takes 0 seconds to ten years, not {after!r}")
        text = reason or f"asked to be tried again after {wait.total_seconds():g} s"
        super().__init__(text, delay=wait)
        self.after = wait

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return partial(RetryLater, after=self.after), self.args


@dataclass(frozen=True, slots=True)
class ErrorRules:
    """The errors after which a robust task is tried again.

    Of the listed classes, the nearest base class of the error decides, so an exception to a rule is
    a subclass: ``give_up_on=(OSError,), retry_on=(ConnectionError,)``. An error that is not listed
    is retried, unless ``retry_on`` is given. :class:`GiveUp` is never retried.

    Raises:
        TypeError: a listed item is not an exception class.
        ValueError: a class is listed twice.

    >>> rules = ErrorRules(give_up_on=OSError, retry_on=ConnectionError)
    >>> [rules.gives_up(error) for error in (FileNotFoundError(), ConnectionResetError())]
    [True, False]
    """

    give_up_on: Errors = ()
    retry_on: Errors = ()

    def __post_init__(self) -> None:
        listed: set[object] = set()
        for name in ("give_up_on", "retry_on"):
            given = getattr(self, name)
            classes = given if isinstance(given, tuple) else (given,)
            for item in classes:
                if not isinstance(item, type) or not issubclass(item, Exception):
                    raise TypeError(f"{name} takes classes of exceptions, not {item!r}")
                if item in listed:
                    raise ValueError(f"{item.__name__} is listed twice in give_up_on and retry_on")
                listed.add(item)
            object.__setattr__(self, name, classes)

    def gives_up(self, error: BaseException) -> bool:
        """Return whether a task that raised ``error`` must not be tried again."""
        errors = [error]
        while errors:  # without recursion, as groups may be nested deeply
            error = errors.pop()
            if isinstance(error, BaseExceptionGroup):  # such as a TaskGroup raises
                errors += error.exceptions
            elif self._forbids(error):
                return True
        return False

    def _forbids(self, error: BaseException) -> bool:
        if isinstance(error, StreaqRetry):
            return False
        for kind in type(error).__mro__:
            if kind is GiveUp or kind in self.give_up_on:  # type: ignore[operator]  # now a tuple
                return True
            if kind in self.retry_on:  # type: ignore[operator]  # as above
                return False
        return bool(self.retry_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The rules by which a failed attempt is repeated, and after how long.

    Args:
        max_tries: the largest number of tries, including the first.
        base: the delay after try n is ``base ** n`` seconds.
        cap: the longest delay.
        jitter: the random part of the delay, from 0 to 1; with 0.2, at most a fifth is subtracted.

    Raises:
        TypeError: a value is not a number.
        ValueError: a number is out of range.

    >>> policy = RetryPolicy(max_tries=3)
    >>> [policy.allows_another(tries=n) for n in (1, 2, 3)]
    [True, True, False]
    >>> policy.delay(tries=2)
    datetime.timedelta(seconds=4)
    >>> RetryPolicy(base=10, cap=timedelta(minutes=5)).delay(tries=10_000)
    datetime.timedelta(seconds=300)
    >>> RetryPolicy(base=10, jitter=0.2).delay(tries=1, chance=0.5)
    datetime.timedelta(seconds=9)
    """

    max_tries: int = 3
    base: float = 2.0
    cap: timedelta = timedelta(minutes=5)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.max_tries, bool) or not isinstance(self.max_tries, int):
            raise TypeError(f"max_retries takes a whole number, not {self.max_tries!r}")
        if self.max_tries < 1:
            raise ValueError(f"max_retries takes at least 1, not {self.max_tries!r}")
        if not check_number("backoff_base", self.base) > 0:
            raise ValueError(f"backoff_base takes a number above 0, not {self.base!r}")
        if self.cap < timedelta(0):
            raise ValueError(f"backoff_max takes 0 or more, not {self.cap.total_seconds():g}")
        if not 0 <= check_number("jitter", self.jitter) <= 1:
            raise ValueError(f"jitter takes a number from 0 to 1, not {self.jitter!r}")

    def allows_another(self, *, tries: int) -> bool:
        """Return whether a task that has been run ``tries`` times may be run again."""
        return tries < self.max_tries

    def delay(self, *, tries: int, chance: float = 0.0) -> timedelta:
        """Return the pause after attempt number ``tries``; ``chance`` is from 0 up to 1.

        The pause is ``min(base ** tries, cap)``, minus the random part that ``jitter`` allows.
        """
        try:
            longest = min(timedelta(seconds=float(self.base) ** tries), self.cap)
        except OverflowError:
            longest = self.cap
        return longest * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """The options of a robust task: retries, and what follows the last attempt.

    Args:
        retry: the number of tries, and the pauses between them.
        errors: the errors that are retried; None for all but :class:`GiveUp`.
        limit: the time limit of one attempt.
        expire: a task that waits longer for its first attempt is given up.
        on_failure: called with task name, task id and error after the last attempt, and with the
            task's ``args`` and ``kwargs`` if it declares them as keyword-only parameters.
        unique: the calls that are the same, and what happens to the second one.
    """

    retry: RetryPolicy
    errors: ErrorRules | None = None
    limit: timedelta | None = None
    expire: timedelta | None = None
    on_failure: OnFailure | None = None
    unique: Unique | None = None


def named_wait(error: BaseException, now: datetime) -> timedelta | None:
    """Return the wait that a server's answer asks for, at most a day; None if it asks for none.

    The wait is the ``Retry-After`` (RFC 9110) of an HTTP response, or an attribute ``retry_after``,
    in seconds or a timedelta, which :class:`~vibetuner.errors.MailError` and many clients have.

    >>> error = OSError()
    >>> error.response = type("Answer", (), {"headers": {"Retry-After": "120"}})
    >>> named_wait(error, datetime.now(UTC))
    datetime.timedelta(seconds=120)
    """
    try:
        named = getattr(error, "retry_after", None)
        if named is None:
            headers: Any = getattr(getattr(error, "response", error), "headers", None)
            # A custom dict may be case-sensitive, unlike HTTP.
            for name in ("Retry-After", "retry-after"):
                if named is None and hasattr(headers, "get"):
                    named = headers.get(name)
        wait = _span(named, now)
    except Exception:  # noqa: BLE001 - the header can hold anything, and a property may raise
        return None
    return min(max(wait, timedelta(0)), LONGEST_NAMED)


def _span(named: Any, now: datetime) -> timedelta:
    if isinstance(named, timedelta):
        return named
    if isinstance(named, str) and not named.strip().isdecimal():
        moment = parsedate_to_datetime(named)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return timedelta(seconds=min(float(named), LONGEST_NAMED.total_seconds()))


def wanted_arguments(
    on_failure: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of ``args`` and ``kwargs`` that an ``on_failure`` declares as keyword-only.

    >>> wanted_arguments(lambda name, task_id, error, *, args: None, (7,), {})
    {'args': (7,)}
    >>> wanted_arguments(lambda *args, **kwargs: None, (7,), {})
    {}
    """
    try:
        parameters = inspect.signature(on_failure).parameters
    except (TypeError, ValueError):  # a function written in C
        return {}
    takes = {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    return {name: value for name, value in (("args", args), ("kwargs", kwargs)) if name in takes}


def policy_of(task: object) -> FailurePolicy | None:
    """Return the policy of a robust task; None for any other."""
    return getattr(task, "failure_policy", None)


def unique_of(task: object) -> Unique | None:
    """Return the ``Unique`` of a robust task; None for any other."""
    policy = policy_of(task)
    return None if policy is None else policy.unique


def set_policy(task: Any, policy: FailurePolicy) -> None:
    """Make a registered task robust."""
    task.failure_policy = policy


def check_number(name: str, value: float) -> float:
    """Return ``value``; raise TypeError if it is no number, ValueError if it is out of range.

    >>> check_number("delay", 10**400)
    Traceback (most recent call last):
    ValueError: delay takes a number of at most 1e+300, not one of 1,329 bits
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} takes a number, not {value!r}")
    if isinstance(value, int) and abs(value) > LARGEST:
        bits = f"{value.bit_length():,} bits"
        raise ValueError(f"{name} takes a number of at most {LARGEST:g}, not one of {bits}")
    if not math.isfinite(value):
        raise ValueError(f"{name} takes a finite number, not {value!r}")
    return value
