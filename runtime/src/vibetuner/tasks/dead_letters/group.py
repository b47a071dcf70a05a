"""Dead letters of the same bug, together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from vibetuner.tasks.dead_letters.letter import Cause

__all__ = ["Group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The letters of one fingerprint.

    Args:
        fingerprint: the bug.
        task: the task's name.
        cause: which of the ways to end it was.
        error: the newest message, with its class before it.
        count: how many there are.
        first: when the oldest failed.
        last: when the newest failed.
    """

    fingerprint: str
    task: str
    cause: Cause
    error: str
    count: int
    first: datetime
    last: datetime

    def with_older(self, older: Group) -> Group:
        """The two as one."""
        return replace(self, count=self.count + older.count, first=min(self.first, older.first))
