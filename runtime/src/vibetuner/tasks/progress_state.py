"""How far a task has come: plain values, and the arithmetic of rates."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

__all__ = ["ProgressState", "ProgressStatus", "RateMeter", "remaining"]

RATE_SECONDS = 10.0


class ProgressStatus(StrEnum):
    """Where a task stands; the last three are ends, and the names of the closing events."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressState:
    """One moment of a task.

    Args:
        done: how many steps are behind it.
        total: how many there are; None when nobody knows.
        message: what it is at, in words for people.
        rate: steps a second, over the last ten seconds.
        eta: seconds that are left at this rate.
    """

    task_id: str
    status: ProgressStatus = ProgressStatus.QUEUED
    done: int = 0
    total: int | None = None
    message: str = ""
    rate: float | None = None
    eta: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.status not in {ProgressStatus.QUEUED, ProgressStatus.RUNNING}

    @property
    def percent(self) -> int | None:
        """0 to 100; None when nobody knows.

        >>> ProgressState(task_id="a", done=1, total=3).percent
        33
        >>> ProgressState(task_id="a", status=ProgressStatus.COMPLETE).percent
        100
        """
        if self.status is ProgressStatus.COMPLETE:
            return 100
        if not self.total:
            return None
        return max(0, min(100, 100 * self.done // self.total))

    def at_end(self, status: ProgressStatus) -> Self:
        """The same, ended."""
        return replace(self, status=status, rate=None, eta=None)

    def to_json(self) -> str:
        """As it is stored and sent, ``percent`` included."""
        return json.dumps({**asdict(self), "percent": self.percent})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote; raises ValueError when it is something else."""
        values: Any = json.loads(text)
        if not isinstance(values, dict) or not isinstance(values.get("task_id"), str):
            raise ValueError("no progress")  # noqa: TRY004 - of whatever type, it is not ours
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**known, "status": ProgressStatus(values.get("status", "queued"))})


class RateMeter:
    """Steps a second over a span of time that moves along.

    >>> meter = RateMeter()
    >>> [meter.rate(at, done) for at, done in ((0, 0), (1, 10), (2, 30), (20, 30))]
    [None, 10.0, 15.0, 0.0]
    """

    def __init__(self, span: float = RATE_SECONDS) -> None:
        self._span = span
        self._samples: deque[tuple[float, int]] = deque()

    def rate(self, now: float, done: int) -> float | None:
        """Note where things stand; returns the rate, None until there are two moments."""
        samples = self._samples
        samples.append((now, done))
        # The last sample before the span is kept: with it the span is whole.
        while len(samples) > 2 and samples[1][0] <= now - self._span:
            samples.popleft()
        began, first = samples[0]
        return (done - first) / (now - began) if now > began else None


def remaining(state_done: int, total: int | None, rate: float | None) -> float | None:
    """Seconds that are left; None when nobody can tell.

    >>> remaining(50, 100, 5), remaining(50, None, 5), remaining(50, 100, 0)
    (10.0, None, None)
    """
    return max(0, total - state_done) / rate if total is not None and rate else None
