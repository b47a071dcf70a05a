"""Searches and counts letters on the server, which reads thousands and sends only matches."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import read_number, read_or_none
from vibetuner.tasks.letters.letter import Filters, Group
from vibetuner.tasks.letters.stream import (
    Client,
    StreamedLetter,
    parse_letter,
    with_acts,
)

# Letters that the server reads in one call, which blocks it for some milliseconds.
CHUNK = 500
# A page that has read this many is returned even if it is not full.
MOST_LOOKED_AT = 10_000
# The field of the hash of groups that counts the letters without a group.
UNGROUPED = "?"
RECOUNT_SECONDS = 0.25
# An entry is newer than its letter, unless the clocks of worker and server differ.
CLOCKS_APART = timedelta(minutes=1)


async def search_letters(
    redis: Client, prefix: str, filters: Filters, *, limit: int, before: str | None = None
) -> tuple[list[StreamedLetter | str], str | None]:
    """Return matching letters, newest first, and the entry before which the next page begins.

    An unreadable letter is returned as the id of its entry. A page with fewer than ``limit``
    letters may still have a next page.
    """
    found: list[StreamedLetter | str] = []
    looked_at = 0
    bugs = await _bugs(redis, prefix, filters)
    async for last, entries in _chunks(redis, prefix, filters, limit + 1, before, bugs):
        found += await _read(redis, prefix, entries)
        if len(found) > limit:
            break
        looked_at += CHUNK
        if looked_at >= MOST_LOOKED_AT:
            return found, last or None
    return _page(found, limit)


async def count_letters(redis: Client, prefix: str, filters: Filters) -> int:
    """Return how many letters match; this reads each of them."""
    chunks = _chunks(redis, prefix, filters, None, None)
    return sum([number async for _, number in chunks])


async def open_groups(redis: Client, prefix: str) -> list[Group]:
    """Return the groups of the open letters, which are updated as letters come and go.

    If they don't add up, as after a version that stored no groups, they are recounted, for a
    quarter of a second at each call, until all are counted.
    """
    keys = Keys(prefix)
    kept = await read_groups(redis, keys)
    end = time.monotonic() + RECOUNT_SECONDS
    places = [keys.letters, keys.acted, keys.letter_groups, keys.guard]
    while not kept.is_whole and time.monotonic() < end:
        if await Scripts(redis).call("recount_letters", places, [CHUNK]):
            kept = await read_groups(redis, keys)
            if kept.rest:
                await redis.hset(keys.letter_groups, {UNGROUPED: kept.rest})
            return kept.groups
    return kept.groups if kept.is_whole else (await read_groups(redis, keys)).groups


@dataclass(frozen=True, slots=True)
class Kept:
    """The groups that are stored in Redis.

    Args:
        groups: the readable groups.
        rest: the open letters that neither a group nor the counter of ungrouped ones includes.
        is_counting: whether a recount is in progress.
    """

    groups: list[Group]
    rest: int
    is_counting: bool

    @property
    def is_whole(self) -> bool:
        """Return whether every open letter is in its group."""
        return not self.rest and not self.is_counting


async def read_groups(redis: Client, keys: Keys) -> Kept:
    """Return the stored groups."""
    places = [keys.letters, keys.acted, keys.letter_groups, keys.guard]
    rest, is_counting, found = await Scripts(redis).call("read_groups", places, [])
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


async def _read(redis: Client, prefix: str, entries: list[Any]) -> list[StreamedLetter | str]:
    pairs = zip(map(str, entries[::2]), map(str, entries[1::2]), strict=True)
    parsed = {entry_id: parse_letter(entry_id, text) for entry_id, text in pairs}
    acted = await with_acts(redis, prefix, [one for one in parsed.values() if one])
    letters = {one.entry_id: one for one in acted}
    return [letters.get(entry_id, entry_id) for entry_id in parsed]


def _page(
    found: list[StreamedLetter | str], limit: int
) -> tuple[list[StreamedLetter | str], str | None]:
    if len(found) <= limit:
        return found, None
    end = found[limit - 1]
    return found[:limit], end if isinstance(end, str) else end.entry_id


async def _bugs(redis: Client, prefix: str, filters: Filters) -> list[str] | None:
    """Return the bugs whose open letters may match; None if all letters must be scanned."""
    if not filters.open_only or not (filters.task or filters.cause or filters.fingerprint):
        return None
    kept = await read_groups(redis, Keys(prefix))
    if not kept.is_whole:
        return None
    return [group.fingerprint for group in kept.groups if filters.match(group)]


async def _chunks(  # noqa: PLR0913, PLR0917 - all arguments of the function
    redis: Client,
    prefix: str,
    filters: Filters,
    most: int | None,
    before: str | None,
    bugs: list[str] | None = None,
) -> AsyncIterator[tuple[str, Any]]:
    """Scan one portion of the letters after another; yield its last entry and its matches.

    Args:
        redis: an open client.
        prefix: REDIS_KEY_PREFIX.
        filters: the wanted letters.
        most: the largest number of letters; None to count them.
        before: the entry before which to begin.
        bugs: the bugs whose letters are scanned; None for all letters.
    """
    values = {
        "task_name": filters.task,
        "cause": filters.cause and filters.cause.value,
        "fingerprint": filters.fingerprint,
    }
    wanted = json.dumps({name: value for name, value in values.items() if value is not None})
    since, first = "", "-"
    if filters.since:
        since = filters.since.astimezone(UTC).isoformat()
        first = f"{max(0, int((filters.since - CLOCKS_APART).timestamp() * 1000))}-0"
    keys, functions = Keys(prefix), Scripts(redis)
    end = f"({before}" if before else "+"
    while True:
        asked: list[str | int] = [end, first, wanted, since, CHUNK]
        places = [keys.letters, keys.acted, keys.guard]
        if bugs is not None:
            asked[-1] = min(most or CHUNK, CHUNK)
            last, found = await functions.call("letters_of", places, [*asked, json.dumps(bugs)])
        elif most is None:
            asked.append(int(filters.open_only))
            last, found = await functions.call("count_letters", places, asked)
        else:
            asked += [int(filters.open_only), most]
            last, found = await functions.call("search_letters", places, asked)
        yield str(last), found
        if not last:
            return
        end = f"({last}"
