"""Dead letters of the same bug, together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from vibetuner.tasks.dead_letters.letter import Cause, DeadLetter

__all__ = ["Group", "group_letters"]


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


def group_letters(letters: Iterable[DeadLetter]) -> list[Group]:
    """The groups of letters that come the newest first; those with the most letters first."""
    groups: dict[str, Group] = {}
    for letter in letters:
        known = groups.get(letter.fingerprint)
        groups[letter.fingerprint] = (
            replace(known, count=known.count + 1, first=min(known.first, letter.failed_at))
            if known
            else Group(
                fingerprint=letter.fingerprint,
                task=letter.task_name,
                cause=letter.cause,
                error=f"{letter.error_type}: {letter.error}",
                count=1,
                first=letter.failed_at,
                last=letter.failed_at,
            )
        )
    return sorted(groups.values(), key=lambda group: (-group.count, group.fingerprint))
