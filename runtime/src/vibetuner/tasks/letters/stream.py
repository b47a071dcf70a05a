"""Dead letters in the stream in Redis, where each is stored in the step that ends its task.

The server searches and counts them: it reads thousands, and sends only matches.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, timedelta
from itertools import islice
from typing import Any

from coredis import Redis, RedisCluster
from coredis.tokens import PureToken

from vibetuner.errors import DeadLetterError
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import Unreadable, dump_record, read_number, read_or_none, read_record
from vibetuner.tasks.letters.letter import Act, DeadLetter, Filters, Group, Page
from vibetuner.tasks.letters.requeue import Retry

Client = Redis[str] | RedisCluster[str]

ENTRY = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
BATCH = 100
SCANNED = 5000
# Letters that the server reads in one call, which blocks it for some milliseconds.
CHUNK = 500
# A page that has read this many is returned even if it is not full.
MOST_LOOKED_AT = 10_000
# The field of the hash of groups that counts the letters without a group.
UNGROUPED = "?"
RECOUNT_SECONDS = 0.25
# An entry is newer than its letter, unless the clocks of worker and server differ.
CLOCKS_APART = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """The groups that are stored in Redis.

    Args:
        rest: the open letters that neither a group nor the counter of ungrouped ones includes.
    """

    groups: list[Group]
    rest: int
    is_counting: bool

    @property
    def is_whole(self) -> bool:
        """Return whether every open letter is in its group."""
        return not self.rest and not self.is_counting


class StreamStore:
    """The store of dead letters; without MongoDB, the stream is all of it."""

    def __init__(self, redis: Client, prefix: str) -> None:
        self._redis = redis
        self._keys = Keys(prefix)
        self._call = Scripts(redis).call

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """Return the newest matching letters, from the end of the page before.

        A page with fewer than ``limit`` letters may still have a next page.
        """
        if after is not None and not ENTRY.fullmatch(after):
            raise bad_end(after)
        found: dict[str, DeadLetter | None] = {}
        looked_at, following = 0, None
        async for last, entries in self._chunks(
            filters, limit + 1, after, await self._bugs(filters)
        ):
            found |= await self._read(zip(entries[::2], entries[1::2], strict=True))
            looked_at += CHUNK
            if len(found) > limit:
                following = list(found)[limit - 1]
                break
            if looked_at >= MOST_LOOKED_AT:
                following = last or None
                break
        shown = dict(islice(found.items(), limit))
        return Page(
            [letter for letter in shown.values() if letter],
            following,
            [entry_id for entry_id, letter in shown.items() if letter is None],
        )

    async def count(self, filters: Filters) -> int:
        """Return the number of matching letters."""
        if filters == Filters():
            letters = await self._redis.xlen(self._keys.letters)
            return max(0, letters - await self._redis.hlen(self._keys.acted))
        if filters == Filters(open_only=False):
            return await self._redis.xlen(self._keys.letters)
        number = filters.count(await self.groups(filters)) if filters.open_only else None
        if number is None:  # each letter is read
            number = sum([part async for _, part in self._chunks(filters, None)])
        return number

    async def groups(self, filters: Filters) -> list[Group]:
        """Return the open letters of a task, a cause or a bug in groups, the largest first.

        Groups are updated as letters come and go. If they don't add up, as after a version that
        stored no groups, they are recounted, for a quarter of a second at each call, until all are
        counted.
        """
        keys, kept = self._keys, await self.stored_groups()
        end = time.monotonic() + RECOUNT_SECONDS
        places = [keys.letters, keys.acted, keys.letter_groups, keys.guard]
        while not kept.is_whole and time.monotonic() < end:
            if await self._call("recount_letters", places, [CHUNK]):
                kept = await self.stored_groups()
                if kept.rest:
                    await self._redis.hset(keys.letter_groups, {UNGROUPED: kept.rest})
                return by_size(kept.groups, filters)
        kept = kept if kept.is_whole else await self.stored_groups()
        return by_size(kept.groups, filters)

    async def get(self, task_id: str) -> DeadLetter | None:
        """Return the letter of one task."""
        place = await self._redis.hget(self._keys.letter_places, task_id)
        if not ENTRY.fullmatch(str(place)):
            return None
        entries = await self._redis.xrange(self._keys.letters, place, place)
        return next(iter((await self._read(_texts(entries))).values()), None)

    async def ids(self, beginning: str, *, limit: int) -> list[str]:
        """Return, in order, the ids of letters that begin with ``beginning``."""
        keys = self._keys
        if await self._redis.zcard(keys.letter_ids) < await self._redis.hlen(keys.letter_places):
            await self._index_ids()
        first, end = f"[{beginning}", f"({beginning}\U0010ffff"
        found = await self._redis.zrange(
            keys.letter_ids, first, end, sortby=PureToken.BYLEX, offset=0, count=limit
        )
        return list(map(str, found))

    async def settle(
        self, letter: DeadLetter, act: Act, retry: Retry | None, *, keep: bool = True
    ) -> Act:
        """Record ``act`` unless another act was recorded before; return the recorded one.

        The task of ``retry`` is enqueued as ``act.retried_as`` in the same step. With ``keep``, the
        mark is kept for ever, as the only record of the act.

        Raises DeadLetterError if the recorded act can't be read.
        """
        keys, task_id, new_id = self._keys, letter.task_id, act.retried_as or ""
        places = [
            keys.act(task_id), keys.acted, *(retry[1:3] if retry else (keys.guard, keys.guard)),
            keys.letters, keys.letter_places, keys.guard,
        ]  # fmt: skip
        values: list[str | bytes | int] = [
            task_id, dump_record(act), new_id, retry.payload if retry else b"", int(keep),
            letter.fingerprint,
        ]  # fmt: skip
        if retry is not None and retry.send is not None:
            decided = await retry.send(places, values, f"{letter.task_name} {new_id}")
        else:
            decided = await self._call("settle_letter", places, values)
        try:
            return read_record(Act, decided)
        except Unreadable:
            raise DeadLetterError(
                f"The dead letter of {task_id} was retried or discarded, and the record of that "
                f"can't be read. Remove the record:  HDEL {keys.acted} {task_id}"
            ) from None

    async def stored_groups(self) -> Kept:
        """Return the groups that are stored in Redis."""
        keys = self._keys
        places = [keys.letters, keys.acted, keys.letter_groups, keys.guard]
        rest, is_counting, found = await self._call("read_groups", places, [])
        groups: list[Group] = []
        for fingerprint, text in zip(found[::2], found[1::2], strict=True):
            if fingerprint == UNGROUPED:
                # Negative if somebody has trimmed the stream.
                rest -= -read_number(text[1:]) if text.startswith("-") else read_number(text)
                continue
            if group := read_or_none(Group, text):
                groups.append(group)
                rest -= group.count
        return Kept(groups, rest, bool(is_counting))

    async def oldest(self) -> dict[str, DeadLetter]:
        """Return the oldest letters, in order, by their entries."""
        after = "-"
        while entries := await self._redis.xrange(
            self._keys.letters, start=after, end="+", count=BATCH
        ):
            found = await self._read(_texts(entries))
            if letters := {entry_id: letter for entry_id, letter in found.items() if letter}:
                return letters
            after = f"({list(found)[-1]}"
        return {}

    async def remove(self, letters: dict[str, DeadLetter], unkept: Collection[str] = ()) -> None:
        """Remove letters that are stored elsewhere, and from their groups those of ``unkept``."""
        keys = self._keys
        values: list[str | int] = []
        for entry_id, one in letters.items():
            values += (entry_id, one.task_id, int(entry_id not in unkept))
        places = [keys.letters, keys.letter_places, keys.acted, keys.guard]
        await self._call("remove_letters", places, values)

    async def _read(self, texts: Iterable[tuple[object, object]]) -> dict[str, DeadLetter | None]:
        """Return the letters of entries, each with the act on it; None for an unreadable one.

        Such an entry stays for a version that can read it, and blocks no other letter.
        """
        found = {str(entry_id): parse_letter(str(text)) for entry_id, text in texts}
        ids = [letter.task_id for letter in found.values() if letter]
        acts = await self._redis.hmget(self._keys.acted, ids) if ids else ()
        by_id = dict(zip(ids, acts, strict=True))
        return {
            entry_id: letter and _with_act(letter, by_id[letter.task_id])
            for entry_id, letter in found.items()
        }

    async def _index_ids(self) -> None:
        """Add to the index the letters of versions before 0.2, which had no index."""
        cursor: int = 0
        while True:
            cursor, some = await self._redis.hscan(self._keys.letter_places, cursor, count=SCANNED)
            if some:
                await self._redis.zadd(self._keys.letter_ids, dict.fromkeys(map(str, some), 0))
            if not cursor:
                return

    async def _bugs(self, filters: Filters) -> list[str] | None:
        """Return the bugs whose open letters may match; None if all letters must be scanned."""
        if not filters.open_only or not (filters.task or filters.cause or filters.fingerprint):
            return None
        kept = await self.stored_groups()
        if not kept.is_whole:
            return None
        return [group.fingerprint for group in kept.groups if filters.match(group)]

    async def _chunks(
        self,
        filters: Filters,
        most: int | None,
        before: str | None = None,
        bugs: list[str] | None = None,
    ) -> AsyncIterator[tuple[str, Any]]:
        """Scan one portion of the letters after another; yield its last entry and its matches.

        With ``most`` None, the matches are counted. With ``bugs``, only their letters are scanned.
        """
        wanted = json.dumps(filters.exact)
        since, first = "", "-"
        if filters.since:
            since = filters.since.astimezone(UTC).isoformat()
            first = f"{max(0, int((filters.since - CLOCKS_APART).timestamp() * 1000))}-0"
        places = [self._keys.letters, self._keys.acted, self._keys.guard]
        end = f"({before}" if before else "+"
        while True:
            asked: list[str | int] = [end, first, wanted, since, CHUNK]
            if bugs is not None:
                asked[-1] = min(most or CHUNK, CHUNK)
                last, found = await self._call("letters_of", places, [*asked, json.dumps(bugs)])
            elif most is None:
                asked.append(int(filters.open_only))
                last, found = await self._call("count_letters", places, asked)
            else:
                asked += [int(filters.open_only), most]
                last, found = await self._call("search_letters", places, asked)
            yield str(last), found
            if not last:
                return
            end = f"({last}"


def bad_end(after: str) -> DeadLetterError:
    """Return the error for an ``after`` that is not the end of a page of this store."""
    return DeadLetterError(f"after= takes the `next` of an earlier page, not {after!r}")


def by_size(groups: Iterable[Group], filters: Filters) -> list[Group]:
    """Return the groups that match, the largest first."""
    wanted = [group for group in groups if filters.match(group)]
    return sorted(wanted, key=lambda group: (-group.count, group.fingerprint))


def parse_letter(text: str) -> DeadLetter | None:
    """Return a stored letter; None if it can't be read."""
    try:
        return DeadLetter.from_json(text)
    except Unreadable:
        return None


def _with_act(letter: DeadLetter, text: str | None) -> DeadLetter:
    if not text:
        return letter
    # An unreadable act still counts: somebody has retried or discarded the letter.
    unknown = Act(at=letter.failed_at, by="a record that can't be read")
    return letter.acted_on(**(read_or_none(Act, text) or unknown).fields())


def _texts(entries: Iterable[Any]) -> Iterable[tuple[object, object]]:
    return ((entry.identifier, entry.field_values.get("letter", "")) for entry in entries)
