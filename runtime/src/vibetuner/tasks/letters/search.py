"""Searches and counts letters on the server: it reads thousands, and sends only matches."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import Unreadable, read_number, read_record
from vibetuner.tasks.letters.letter import Filters, Group
from vibetuner.tasks.letters.stream import (
    Client,
    StreamedLetter,
    count_open,
    parse_letter,
    with_acts,
)

__all__ = ["count_letters", "kept_groups", "open_groups", "search_letters"]

# Letters that the server reads in one call, which blocks it for some milliseconds.
CHUNK = 500
# A page that has read this many is returned even if it is not full.
MOST_LOOKED_AT = 10_000
# The field of the groups that counts letters without a group.
UNGROUPED = "?"
RECOUNT_SECONDS = 0.25


async def search_letters(
    redis: Client, prefix: str, filters: Filters, *, limit: int, before: str | None = None
) -> tuple[list[StreamedLetter | str], str | None]:
    """Return matching letters, newest first, and the entry before which the next page begins.

    An unreadable letter is returned as the id of its entry. A page with fewer than ``limit``
    letters may still have a next page.
    """
    found: list[StreamedLetter | str] = []
    looked_at = 0
    if filters.fingerprint and filters == Filters(fingerprint=filters.fingerprint):
        keys, values = Keys(prefix), [filters.fingerprint, before or "", limit + 1]
        places = [keys.letters, keys.acted, keys.guard]
        entries = await Scripts(redis).call("letters_of", places, values)
        return _page(await _read(redis, prefix, entries), limit)
    async for last, entries in _chunks(redis, prefix, "search_letters", filters, limit + 1, before):
        found += await _read(redis, prefix, entries)
        if len(found) > limit:
            break
        looked_at += CHUNK
        if looked_at >= MOST_LOOKED_AT:
            return found, last
    return _page(found, limit)


async def count_letters(redis: Client, prefix: str, filters: Filters) -> int:
    """Return the number of matching letters, by reading each."""
    chunks = _chunks(redis, prefix, "count_letters", filters, 0, None)
    return sum([number async for _, number in chunks])


async def open_groups(redis: Client, prefix: str) -> list[Group]:
    """Return the groups of the open letters, which are kept as letters come and go.

    If they don't add up, as after a version that did not keep them, they are counted anew: for a
    quarter of a second each time somebody asks, until all are counted.
    """
    keys = Keys(prefix)
    groups, total = await kept_groups(redis, keys)
    is_counting = await redis.exists([f"{keys.letter_groups}:recount"])
    if not is_counting and total == await count_open(redis, prefix):
        return groups
    end = time.monotonic() + RECOUNT_SECONDS
    places = [keys.letters, keys.acted, keys.letter_groups, keys.guard]
    while time.monotonic() < end:
        if await Scripts(redis).call("recount_letters", places, [CHUNK]):
            groups, total = await kept_groups(redis, keys)
            rest = await count_open(redis, prefix) - total
            if rest > 0:
                await redis.hset(keys.letter_groups, {UNGROUPED: rest})
            return groups
    return (await kept_groups(redis, keys))[0]


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


async def kept_groups(redis: Client, keys: Keys) -> tuple[list[Group], int]:
    """Return the current groups, and the number of letters in them."""
    groups: list[Group] = []
    texts = await redis.hgetall(keys.letter_groups)
    total = read_number(texts.pop(UNGROUPED, 0))
    for text in texts.values():
        try:
            group = read_record(Group, text)
        except Unreadable:
            continue
        groups.append(group)
        total += group.count
    return groups, total


async def _chunks(  # noqa: PLR0913, PLR0917 - all arguments of the function
    redis: Client,
    prefix: str,
    function: str,
    filters: Filters,
    most: int,
    before: str | None,
) -> AsyncIterator[tuple[str, Any]]:
    """Call a function on one part of the stream after another; yield last entry and reply."""
    values = {
        "task_name": filters.task,
        "cause": filters.cause and filters.cause.value,
        "fingerprint": filters.fingerprint,
    }
    wanted = json.dumps({name: value for name, value in values.items() if value is not None})
    since = filters.since.astimezone(UTC).isoformat() if filters.since else ""
    keys = [Keys(prefix).letters, Keys(prefix).acted]
    end, functions = f"({before}" if before else "+", Scripts(redis)
    while True:
        arguments: list[str | int] = [end, wanted, since, int(filters.open_only), CHUNK]
        last, found = await functions.call(function, keys, [*arguments, most])
        if not last:
            return
        yield str(last), found
        end = f"({last}"
