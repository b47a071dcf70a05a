"""Searches and counts letters on the server: thousands are looked at, few are sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

from coredis.tokens import PureToken

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

__all__ = ["count_letters", "open_groups", "search_letters"]

# The server looks at this many in one go, some milliseconds in which it does nothing else.
CHUNK = 500
# A page that has looked at this many is returned as it is.
MOST_LOOKED_AT = 20_000
# The field of the groups that counts the letters of no group.
UNGROUPED = "?"
RECOUNT_SECONDS = 60


async def search_letters(
    redis: Client, prefix: str, filters: Filters, *, limit: int, before: str | None = None
) -> tuple[list[StreamedLetter | str], str | None]:
    """Return letters that match, the newest first, and the entry before which the next page begins.

    A letter that can't be read is the id of its entry. There may be fewer than ``limit``, and
    still a next page.
    """
    found: list[StreamedLetter | str] = []
    looked_at = 0
    async for last, entries in _chunks(redis, prefix, "search_letters", filters, limit + 1, before):
        pairs = zip(map(str, entries[::2]), map(str, entries[1::2]), strict=True)
        parsed = {entry_id: parse_letter(entry_id, text) for entry_id, text in pairs}
        acted = await with_acts(redis, prefix, [one for one in parsed.values() if one])
        letters = {one.entry_id: one for one in acted}
        found += [letters.get(entry_id, entry_id) for entry_id in parsed]
        if len(found) > limit:
            end = found[limit - 1]
            return found[:limit], end if isinstance(end, str) else end.entry_id
        looked_at += CHUNK
        if looked_at >= MOST_LOOKED_AT:
            return found, last
    return found, None


async def count_letters(redis: Client, prefix: str, filters: Filters) -> int:
    """Return how many letters match, by a look at each."""
    chunks = _chunks(redis, prefix, "group_letters", filters, 0, None)
    return sum([number async for _, number in chunks])


async def open_groups(redis: Client, prefix: str) -> list[Group]:
    """Return the groups of the open letters, which are counted as letters come and go.

    They are counted anew where they don't add up, as after a version that did not keep them.
    """
    keys = Keys(prefix)
    groups, total = await _kept_groups(redis, keys)
    if total == await count_open(redis, prefix):
        return groups
    lock = f"{keys.letter_groups}:recount"
    if await redis.set(lock, "1", ex=RECOUNT_SECONDS, condition=PureToken.NX):
        total = await count_open(redis, prefix)
        await redis.delete([keys.letter_groups])
        filters = Filters()
        async for _, number in _chunks(redis, prefix, "group_letters", filters, 0, None, keep=True):
            total -= number
        if total > 0:
            await redis.hset(keys.letter_groups, {UNGROUPED: total})
        await redis.delete([lock])
        groups, _ = await _kept_groups(redis, keys)
    return groups


async def _kept_groups(redis: Client, keys: Keys) -> tuple[list[Group], int]:
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


async def _chunks(  # noqa: PLR0913, PLR0917 - all that a function is given
    redis: Client,
    prefix: str,
    function: str,
    filters: Filters,
    most: int,
    before: str | None,
    *,
    keep: bool = False,
) -> AsyncIterator[tuple[str, Any]]:
    """Call a function on one part of the stream after another; yield last entry and answer."""
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
        last, found = await functions.call(function, keys, [*arguments, most, int(keep)])
        if not last:
            return
        yield str(last), found
        end = f"({last}"
