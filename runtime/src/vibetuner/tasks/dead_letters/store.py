"""Where dead letters are kept: what every store can do, and the one that is the stream itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from vibetuner.errors import DeadLetterError
from vibetuner.tasks.dead_letters.act import Act
from vibetuner.tasks.dead_letters.group import Group, group_letters
from vibetuner.tasks.dead_letters.letter import Cause, DeadLetter
from vibetuner.tasks.dead_letters.requeue import Requeue
from vibetuner.tasks.dead_letters.stream import (
    Client,
    StreamedLetter,
    count_open,
    find_letter,
    walk_letters,
)

__all__ = ["Filters", "Page", "Store", "StreamStore", "bad_end"]

MOST_GROUPED = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which letters are meant; what is None does not matter."""

    task: str | None = None
    cause: Cause | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    open_only: bool = True

    def match(self, letter: DeadLetter) -> bool:
        """Whether ``letter`` is one of them."""
        return (
            self.task in {None, letter.task_name}
            and self.cause in {None, letter.cause}
            and self.fingerprint in {None, letter.fingerprint}
            and (self.since is None or letter.failed_at >= self.since)
            and (letter.is_open or not self.open_only)
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Letters, the newest first, and where the next page begins; None after the last."""

    letters: list[DeadLetter]
    next: str | None = None


def bad_end(after: str) -> DeadLetterError:
    """What to say when ``after`` is not where a page of this store ended."""
    return DeadLetterError(f"after= takes the `next` of an earlier page, not {after!r}")


class Store(Protocol):
    """What can be done with the letters, wherever they are kept."""

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """The newest letters that match, those behind the page that ended at ``after``."""
        ...

    async def count(self, filters: Filters) -> int:
        """How many match."""
        ...

    async def groups(self, filters: Filters) -> list[Group]:
        """The letters that match, by their fingerprint; the largest group first."""
        ...

    async def get(self, task_id: str) -> DeadLetter | None:
        """The letter of one task."""
        ...

    async def settle(self, letter: DeadLetter, act: Act, payload: bytes | None) -> Act:
        """Do ``act``, unless one was done; returns the one that holds.

        With a ``payload``, that is enqueued as ``act.retried_as`` in the same step.
        """
        ...


class StreamStore:
    """The stream in Redis, where no MongoDB is configured; made for thousands, not for millions."""

    def __init__(self, redis: Client, prefix: str, requeue: Requeue) -> None:
        self._redis = redis
        self._prefix = prefix
        self._requeue = requeue

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """As :meth:`Store.page`; a page's end is its last entry's id."""
        if after is not None and not re.fullmatch(r"\d+-\d+", after):
            raise bad_end(after)
        found: list[StreamedLetter] = []
        async for streamed in walk_letters(self._redis, self._prefix, before=after):
            if not filters.match(streamed.letter):
                continue
            if len(found) == limit:
                return Page([kept.letter for kept in found], found[-1].entry_id)
            found.append(streamed)
        return Page([kept.letter for kept in found])

    async def count(self, filters: Filters) -> int:
        """As :meth:`Store.count`; all that are open are counted without a look at them."""
        if filters == Filters():
            return await count_open(self._redis, self._prefix)
        walk = walk_letters(self._redis, self._prefix)
        return sum([filters.match(streamed.letter) async for streamed in walk])

    async def groups(self, filters: Filters) -> list[Group]:
        """As :meth:`Store.groups`, of the newest 2,000: a walk through more takes too long."""
        letters: list[DeadLetter] = []
        async for streamed in walk_letters(self._redis, self._prefix):
            if filters.match(streamed.letter):
                letters.append(streamed.letter)
            if len(letters) == MOST_GROUPED:
                break
        return group_letters(letters)

    async def get(self, task_id: str) -> DeadLetter | None:
        """As :meth:`Store.get`."""
        return await find_letter(self._redis, self._prefix, task_id)

    async def settle(self, letter: DeadLetter, act: Act, payload: bytes | None) -> Act:
        """As :meth:`Store.settle`; the act is kept beside the stream, in the same step."""
        return await self._requeue.settle(letter.task_id, act, payload, keep=True)
