"""Where dead letters are kept: what every store can do, and the one that is the stream itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from vibetuner.errors import DeadLetterError
from vibetuner.tasks.letters.letter import Act, DeadLetter, Filters, Group
from vibetuner.tasks.letters.requeue import Requeue
from vibetuner.tasks.letters.search import search_groups, search_letters
from vibetuner.tasks.letters.stream import Client, count_open, find_letter

__all__ = ["Page", "Store", "StreamStore", "bad_end"]


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
        search = search_letters(self._redis, self._prefix, filters, most=limit + 1, before=after)
        found = [streamed async for streamed in search]
        letters = [streamed.letter for streamed in found[:limit]]
        return Page(letters, found[limit - 1].entry_id if len(found) > limit else None)

    async def count(self, filters: Filters) -> int:
        """As :meth:`Store.count`; all that are open are counted without a look at them."""
        if filters == Filters():
            return await count_open(self._redis, self._prefix)
        return sum(group.count for group in await self.groups(filters))

    async def groups(self, filters: Filters) -> list[Group]:
        """As :meth:`Store.groups`."""
        return await search_groups(self._redis, self._prefix, filters)

    async def get(self, task_id: str) -> DeadLetter | None:
        """As :meth:`Store.get`."""
        return await find_letter(self._redis, self._prefix, task_id)

    async def settle(self, letter: DeadLetter, act: Act, payload: bytes | None) -> Act:
        """As :meth:`Store.settle`; the act is kept beside the stream, in the same step."""
        return await self._requeue.settle(letter.task_id, act, payload, keep=True)
