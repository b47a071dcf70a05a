"""Search in the stream, done by Redis: thousands of letters are looked at, few are sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vibetuner.tasks.dead_letters.group import Group
from vibetuner.tasks.dead_letters.letter import Cause
from vibetuner.tasks.dead_letters.stream import (
    Client,
    StreamedLetter,
    acts_key,
    parse_letter,
    stream_key,
    with_acts,
)

__all__ = ["Filters", "search_groups", "search_letters"]

# So many are looked at in one go, for some milliseconds in which Redis does nothing else.
CHUNK = 250
CAUSES = frozenset(cause.value for cause in Cause)

# An entry holds the letter and, but for older ones, what a search needs of it.
# Gets the entry before which to begin, the fields that must match, and a moment; calls `found` for
# each letter that matches, until that returns true. Texts of moments compare as moments do.
SEARCH = """
local before, wanted, since = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]
local open_only, last = ARGV[4] == '1', ''
local texts = {'task_id', 'task_name', 'cause', 'fingerprint', 'error', 'error_type', 'failed_at'}
local function search(found)
  for _, entry in ipairs(redis.call('xrevrange', KEYS[1], before, '-', 'count', ARGV[5])) do
    last = entry[1]
    local known, letter = pcall(cjson.decode, entry[2][4] or entry[2][2])
    local meant = known and type(letter) == 'table'
    for _, name in ipairs(texts) do meant = meant and type(letter[name]) == 'string' end
    meant = meant and letter.failed_at >= since
    for name, value in pairs(wanted) do meant = meant and letter[name] == value end
    if meant and open_only then
      meant = redis.call('hexists', KEYS[2], letter.task_id) == 0
    end
    if meant and found(entry, letter) then return end
  end
end
"""

LETTERS = f"""{SEARCH}
local most, answer = tonumber(ARGV[6]), {{}}
search(function(entry)
  table.insert(answer, entry[1])
  table.insert(answer, entry[2][2])
  return #answer == 2 * most
end)
return {{last, answer}}
"""

GROUPS = f"""{SEARCH}
local groups, order = {{}}, {{}}
search(function(_, letter)
  local known = groups[letter.fingerprint]
  if known then
    known[5], known[6] = known[5] + 1, letter.failed_at
  else
    local error = letter.error_type .. ': ' .. letter.error
    local first = letter.failed_at
    known = {{letter.fingerprint, letter.task_name, letter.cause, error, 1, first, first}}
    groups[letter.fingerprint] = known
    table.insert(order, known)
  end
end)
return {{last, #order > 0 and cjson.encode(order) or '[]'}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which letters are meant; what is None does not matter."""

    task: str | None = None
    cause: Cause | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    open_only: bool = True


async def search_letters(
    redis: Client, prefix: str, filters: Filters, *, most: int, before: str | None = None
) -> AsyncIterator[StreamedLetter]:
    """At most so many letters that match, the newest first; those before the entry ``before``."""
    async for found in _chunks(redis, prefix, LETTERS, filters, most, before):
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
    async for found in _chunks(redis, prefix, GROUPS, filters, 0, None):
        for values in json.loads(found):
            if values[2] not in CAUSES:  # a newer version's
                continue
            group = _group(*values)
            known = groups.get(group.fingerprint)
            groups[group.fingerprint] = known.with_older(group) if known else group
    return sorted(groups.values(), key=lambda group: (-group.count, group.fingerprint))


async def _chunks(  # noqa: PLR0913, PLR0917 - all that a script is given
    redis: Client, prefix: str, script: str, filters: Filters, most: int, before: str | None
) -> AsyncIterator[Any]:
    values = {
        "task_name": filters.task,
        "cause": filters.cause and filters.cause.value,
        "fingerprint": filters.fingerprint,
    }
    wanted = json.dumps({name: value for name, value in values.items() if value is not None})
    since = filters.since.astimezone(UTC).isoformat() if filters.since else ""
    keys = [stream_key(prefix), acts_key(prefix)]
    end = f"({before}" if before else "+"
    while True:
        arguments: list[str | int] = [end, wanted, since, int(filters.open_only), CHUNK, most]
        answer: Any = await redis.eval(script, keys, arguments)
        last, found = answer
        if not last:
            return
        yield found
        end = f"({last}"


def _group(  # noqa: PLR0913, PLR0917 - in the script's order
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
