"""The stream next to the queue: where a dead letter is kept before its task is finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coredis import Redis, RedisCluster

from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.tasks.letters.letter import Act, DeadLetter

__all__ = [
    "Client",
    "StreamedLetter",
    "count_open",
    "find_letter",
    "keep",
    "parse_letter",
    "read_letters",
    "remove_letters",
    "with_acts",
]

Client = Redis[str] | RedisCluster[str]
FIELD = "letter"
BATCH = 100
SEARCHED = ("task_id", "task_name", "cause", "fingerprint", "error", "error_type")


@dataclass(frozen=True, slots=True)
class StreamedLetter:
    """A letter with its place in the stream."""

    entry_id: str
    letter: DeadLetter


async def keep(redis: Client, prefix: str, letter: DeadLetter) -> None:
    """Append a letter; when this returns, it survives whatever happens to the worker."""
    keys, values = Keys(prefix), [letter.task_id, letter.to_json(), _about(letter)]
    await Scripts(redis).call("keep_letter", [keys.letters, keys.letter_places], values)


async def read_letters(redis: Client, prefix: str) -> list[StreamedLetter]:
    """The oldest letters, in the order in which they came; empty when there is none."""
    after = "-"
    while entries := await redis.xrange(Keys(prefix).letters, start=after, end="+", count=BATCH):
        if letters := await _read(redis, prefix, entries):
            return letters
        after = f"({_entry_id(entries[-1])}"
    return []


async def count_open(redis: Client, prefix: str) -> int:
    """How many letters nobody has acted on."""
    letters = await redis.xlen(Keys(prefix).letters)
    return max(0, letters - await redis.hlen(Keys(prefix).acted))


async def find_letter(redis: Client, prefix: str, task_id: str) -> DeadLetter | None:
    """The letter of a task, if the stream holds one."""
    place = await redis.hget(Keys(prefix).letter_places, task_id)
    if place is None:
        return None
    letters = await _read(redis, prefix, await redis.xrange(Keys(prefix).letters, place, place))
    return letters[0].letter if letters else None


async def remove_letters(redis: Client, prefix: str, letters: Sequence[StreamedLetter]) -> None:
    """Take letters out, once they are kept elsewhere."""
    if not letters:
        return
    ids = [streamed.letter.task_id for streamed in letters]
    await redis.xdel(Keys(prefix).letters, [streamed.entry_id for streamed in letters])
    await redis.hdel(Keys(prefix).letter_places, ids)
    await redis.hdel(Keys(prefix).acted, ids)


def parse_letter(entry_id: str, text: str) -> StreamedLetter | None:
    """The letter of an entry; None where it can't be read, as of a newer version's."""
    try:
        return StreamedLetter(entry_id, DeadLetter.from_json(text))
    except (ValueError, TypeError, KeyError):
        # It waits for a version that can read it, and holds up no other.
        return None


async def with_acts(
    redis: Client, prefix: str, letters: Sequence[StreamedLetter]
) -> list[StreamedLetter]:
    """The same letters, with what was done with them."""
    if not letters:
        return []
    acts = await redis.hmget(Keys(prefix).acted, [streamed.letter.task_id for streamed in letters])
    return [
        StreamedLetter(
            streamed.entry_id,
            streamed.letter.acted_on(**Act.from_json(act).fields()) if act else streamed.letter,
        )
        for streamed, act in zip(letters, acts, strict=True)
    ]


async def _read(redis: Client, prefix: str, entries: Sequence[Any]) -> list[StreamedLetter]:
    pairs = [(_entry_id(entry), str(entry.field_values.get(FIELD, ""))) for entry in entries]
    letters = [letter for pair in pairs if (letter := parse_letter(*pair))]
    return await with_acts(redis, prefix, letters)


def _about(letter: DeadLetter) -> str:
    """What a search compares and groups by; to parse whole letters for that takes too long."""
    values = {name: getattr(letter, name) for name in SEARCHED}
    return json.dumps({**values, "failed_at": letter.failed_at.isoformat()})


def _entry_id(entry: Any) -> str:
    return str(entry.identifier)
