"""Search in the stream, done by Redis: thousands of letters are looked at, few are sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.tasks.letters.letter import Cause, Filters, Group
from vibetuner.tasks.letters.stream import (
    Client,
    StreamedLetter,
    parse_letter,
    with_acts,
)

__all__ = ["search_groups", "search_letters"]

# So many are looked at in one go, for some milliseconds in which Redis does nothing else.
CHUNK = 250
CAUSES = frozenset(cause.value for cause in Cause)


async def search_letters(
    redis: Client, prefix: str, filters: Filters, *, most: int, before: str | None = None
) -> AsyncIterator[StreamedLetter]:
    """At most so many letters that match, the newest first; those before the entry ``before``."""
    async for found in _chunks(redis, prefix, "search_letters", filters, most, before):
        pairs = zip(found[::2], found[1::2], strict=True)
        letters = [letter for pair in pairs if (letter := parse_letter(*map(str, pair)))]
        for streamed in await with_acts(redis, prefix, letters):
            yield streamed
            most -= 1
            if most <= 0:
                return


async def search_groups(redis: Client, prefix: str, filters: Filters) -> list[Group]:
    """The letters that match, by their bug; those with the most letters first."""
    groups: dict[str, Group] = {}
    async for found in _chunks(redis, prefix, "group_letters", filters, 0, None):
        for values in json.loads(found):
            if values[2] not in CAUSES:  # a newer version's
                continue
            group = _group(*values)
            known = groups.get(group.fingerprint)
            groups[group.fingerprint] = known.with_older(group) if known else group
    return sorted(groups.values(), key=lambda group: (-group.count, group.fingerprint))


async def _chunks(  # noqa: PLR0913, PLR0917 - all that a function is given
    redis: Client, prefix: str, function: str, filters: Filters, most: int, before: str | None
) -> AsyncIterator[Any]:
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
        arguments: list[str | int] = [end, wanted, since, int(filters.open_only), CHUNK, most]
        last, found = await functions.call(function, keys, arguments)
        if not last:
            return
        yield found
        end = f"({last}"


def _group(  # noqa: PLR0913, PLR0917 - in the function's order
    fingerprint: str, task: str, cause: str, error: str, count: int, first: str, last: str
) -> Group:
    return Group(
        fingerprint=fingerprint,
        task=task,
        cause=Cause(cause),
        error=error,
        count=count,
        first=datetime.fromisoformat(first),
        last=datetime.fromisoformat(last),
    )
