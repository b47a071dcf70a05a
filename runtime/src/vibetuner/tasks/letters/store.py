"""The interface of a store of dead letters, and the store in the Redis stream."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from vibetuner.errors import DeadLetterError
from vibetuner.redis.keys import Keys
from vibetuner.tasks.letters.letter import Act, DeadLetter, Filters, Group
from vibetuner.tasks.letters.requeue import Requeue
from vibetuner.tasks.letters.search import count_letters, open_groups, search_letters
from vibetuner.tasks.letters.stream import Client, count_open, find_ids, find_letter


@dataclass(frozen=True, slots=True)
class Page:
    """A page of letters, the newest first.

    Args:
        letters: the letters.
        next: the position of the next page; None after the last.
        unreadable: the ids of unreadable letters: damaged, or of a newer version.
    """

    letters: list[DeadLetter]
    next: str | None = None
    unreadable: list[str] = field(default_factory=list)


def bad_end(after: str) -> DeadLetterError:
    """Return the error for an ``after`` that is not the end of a page of this store."""
    return DeadLetterError(f"after= takes the `next` of an earlier page, not {after!r}")


def unreadable(task_id: str, reason: Exception) -> DeadLetterError:
    """Return the error for a letter that can't be read."""
    return DeadLetterError(
        f"The dead letter of {task_id} can't be read ({reason}): it is damaged, or of a newer "
        "version of vibetuner"
    )


class Store(Protocol):
    """A store of dead letters."""

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """Return the newest matching letters, from the end of the page before."""
        ...

    async def count(self, filters: Filters) -> int:
        """Return the number of matching letters."""
        ...

    async def groups(self, filters: Filters) -> list[Group]:
        """Return the open letters of a task, a cause or a bug in groups, the largest first."""
        ...

    async def get(self, task_id: str) -> DeadLetter | None:
        """Return the letter of one task."""
        ...

    async def ids(self, beginning: str, *, limit: int) -> list[str]:
        """Return, in order, the ids of letters that begin with ``beginning``."""
        ...

    async def settle(self, letter: DeadLetter, act: Act, payload: bytes | None) -> Act:
        """Record ``act`` unless another act was recorded before; return the recorded one.

        A ``payload`` is enqueued as ``act.retried_as`` in the same step.
        """
        ...


class StreamStore:
    """Keeps letters in the stream in Redis, if MongoDB is not configured."""

    def __init__(self, redis: Client, prefix: str, requeue: Requeue) -> None:
        self._redis = redis
        self._prefix = prefix
        self._requeue = requeue

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """Implement :meth:`Store.page`; a page's end is its last entry's id."""
        if after is not None and not re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", after):
            raise bad_end(after)
        found, following = await search_letters(
            self._redis, self._prefix, filters, limit=limit, before=after
        )
        return Page(
            [one.letter for one in found if not isinstance(one, str)],
            following,
            [one for one in found if isinstance(one, str)],
        )

    async def count(self, filters: Filters) -> int:
        """Implement :meth:`Store.count`."""
        if filters == Filters():
            return await count_open(self._redis, self._prefix)
        if filters == Filters(open_only=False):
            return await self._redis.xlen(Keys(self._prefix).letters)
        number = filters.count(await self.groups(filters)) if filters.open_only else None
        if number is None:
            return await count_letters(self._redis, self._prefix, filters)
        return number

    async def groups(self, filters: Filters) -> list[Group]:
        """Implement :meth:`Store.groups`; only open letters are grouped, of any time."""
        groups = await open_groups(self._redis, self._prefix)
        wanted = [group for group in groups if filters.match(group)]
        return sorted(wanted, key=lambda group: (-group.count, group.fingerprint))

    async def get(self, task_id: str) -> DeadLetter | None:
        """Implement :meth:`Store.get`."""
        return await find_letter(self._redis, self._prefix, task_id)

    async def ids(self, beginning: str, *, limit: int) -> list[str]:
        """Implement :meth:`Store.ids`."""
        return await find_ids(self._redis, self._prefix, beginning, limit)

    async def settle(self, letter: DeadLetter, act: Act, payload: bytes | None) -> Act:
        """Implement :meth:`Store.settle`; the act is stored beside the stream, in the same step."""
        return await self._requeue.settle(letter, act, payload, keep=True)
