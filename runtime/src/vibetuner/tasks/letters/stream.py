"""The stream in Redis where a dead letter is stored in the step that ends its task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coredis import Redis, RedisCluster
from coredis.tokens import PureToken

from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import Unreadable, read_or_none
from vibetuner.tasks.letters.letter import Act, DeadLetter

Client = Redis[str] | RedisCluster[str]
FIELD = "letter"
BATCH = 100
SCANNED = 5000


@dataclass(frozen=True, slots=True)
class StreamedLetter:
    """A letter with its entry of the stream."""

    entry_id: str
    letter: DeadLetter


async def keep(redis: Client, prefix: str, letter: DeadLetter) -> None:
    """Append a letter; once this returns, the letter survives the worker."""
    keys, values = Keys(prefix), [letter.task_id, letter.to_json()]
    places = [keys.letters, keys.letter_places, keys.guard]
    await Scripts(redis).call("bury_letter", places, values)


async def read_letters(redis: Client, prefix: str) -> list[StreamedLetter]:
    """Return the oldest letters, in order."""
    after = "-"
    while entries := await redis.xrange(Keys(prefix).letters, start=after, end="+", count=BATCH):
        if letters := await _read(redis, prefix, entries):
            return letters
        after = f"({_entry_id(entries[-1])}"
    return []


async def count_open(redis: Client, prefix: str) -> int:
    """Return the number of letters that were neither retried nor discarded."""
    letters = await redis.xlen(Keys(prefix).letters)
    return max(0, letters - await redis.hlen(Keys(prefix).acted))


async def find_letter(redis: Client, prefix: str, task_id: str) -> DeadLetter | None:
    """Return the letter of a task, if the stream holds one."""
    place = await redis.hget(Keys(prefix).letter_places, task_id)
    if not re.fullmatch(r"\d{1,20}-\d{1,20}", str(place), re.ASCII):
        return None
    letters = await _read(redis, prefix, await redis.xrange(Keys(prefix).letters, place, place))
    return letters[0].letter if letters else None


async def find_ids(redis: Client, prefix: str, beginning: str, limit: int) -> list[str]:
    """Return ids of letters in the stream that begin with ``beginning``, letters and digits."""
    keys = Keys(prefix)
    if await redis.zcard(keys.letter_ids) < await redis.hlen(keys.letter_places):
        await _index_ids(redis, keys)
    found = await redis.zrange(
        keys.letter_ids,
        f"[{beginning}",
        f"({beginning}\U0010ffff",
        sortby=PureToken.BYLEX,
        offset=0,
        count=limit,
    )
    return list(map(str, found))


async def _index_ids(redis: Client, keys: Keys) -> None:
    """Add to the index the letters of versions before 0.2, which had no index."""
    cursor: int = 0
    while True:
        cursor, some = await redis.hscan(keys.letter_places, cursor, count=SCANNED)
        if some:
            await redis.zadd(keys.letter_ids, dict.fromkeys(map(str, some), 0))
        if not cursor:
            return


async def remove_letters(redis: Client, prefix: str, letters: Sequence[StreamedLetter]) -> None:
    """Remove letters that are stored elsewhere."""
    keys = Keys(prefix)
    values = [value for one in letters for value in (one.entry_id, one.letter.task_id)]
    places = [keys.letters, keys.letter_places, keys.acted, keys.guard]
    await Scripts(redis).call("remove_letters", places, values)


def parse_letter(entry_id: str, text: str) -> StreamedLetter | None:
    """Return the letter of an entry; None if it can't be read.

    Such an entry stays for a version that can read it, and blocks no other letter.
    """
    try:
        return StreamedLetter(entry_id, DeadLetter.from_json(text))
    except Unreadable:
        return None


async def with_acts(
    redis: Client, prefix: str, letters: Sequence[StreamedLetter]
) -> list[StreamedLetter]:
    """Return the same letters, each with the act on it."""
    if not letters:
        return []
    acts = await redis.hmget(Keys(prefix).acted, [streamed.letter.task_id for streamed in letters])
    return [
        StreamedLetter(
            streamed.entry_id,
            streamed.letter.acted_on(**_act(act, streamed).fields()) if act else streamed.letter,
        )
        for streamed, act in zip(letters, acts, strict=True)
    ]


def _act(text: str, streamed: StreamedLetter) -> Act:
    # An unreadable act still counts: somebody has retried or discarded the letter.
    unknown = Act(at=streamed.letter.failed_at, by="a record that can't be read")
    return read_or_none(Act, text) or unknown


async def _read(redis: Client, prefix: str, entries: Sequence[Any]) -> list[StreamedLetter]:
    pairs = [(_entry_id(entry), str(entry.field_values.get(FIELD, ""))) for entry in entries]
    letters = [letter for pair in pairs if (letter := parse_letter(*pair))]
    return await with_acts(redis, prefix, letters)


def _entry_id(entry: Any) -> str:
    return str(entry.identifier)
