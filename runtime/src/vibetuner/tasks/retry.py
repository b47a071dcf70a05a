"""Retry arithmetic, without a clock and a source of chance of its own; what follows a failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

__all__ = ["FailurePolicy", "OnFailure", "RetryPolicy", "check_number", "policy_of", "set_policy"]

OnFailure = Callable[[str, str, Exception], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed try is repeated, and after how long.

    Args:
        max_tries: how often a task is run at the most, the first time included.
        base: the delay after try n is ``base ** n`` seconds.
        cap: and never longer than this.
        jitter: the part of the delay that is left to chance: with 0.2 the delay lies in its
            upper fifth.

    Raises:
        TypeError: a value that is no number.
        ValueError: a number out of range.

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
        """Whether a task that has been run ``tries`` times may be run again."""
        return tries < self.max_tries

    def delay(self, *, tries: int, chance: float = 0.0) -> timedelta:
        """How long to wait after try number ``tries``; ``chance`` is from 0 up to 1.

        ``min(base ** tries, cap)``, less the part that ``jitter`` leaves to chance.
        """
        try:
            longest = min(timedelta(seconds=float(self.base) ** tries), self.cap)
        except OverflowError:
            longest = self.cap
        return longest * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What a robust task adds to a task: retries, and what follows the last attempt.

    Args:
        retry: when a failed attempt is followed by another.
        limit: the time limit of one attempt.
        expire: a task that waits longer for its first attempt is given up.
        on_failure: called with task name, task id and error once no attempt is left.
    """

    retry: RetryPolicy
    limit: timedelta | None = None
    expire: timedelta | None = None
    on_failure: OnFailure | None = None


def policy_of(task: object) -> FailurePolicy | None:
    """Return the policy of a robust task; None for any other."""
    return getattr(task, "failure_policy", None)


def set_policy(task: Any, policy: FailurePolicy) -> None:
    """Make a registered task a robust one."""
    task.failure_policy = policy


def check_number(name: str, value: float) -> float:
    """Return ``value``; raises TypeError for what is no number, ValueError for what is endless."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} takes a number, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} takes a finite number, not {value!r}")
    return value
