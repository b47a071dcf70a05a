"""Counts stored records that can't be read, for the doctor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coredis import Redis

from vibetuner.redis.keys import Keys
from vibetuner.stored import read_or_none
from vibetuner.tasks.journal import Beat, Ended, Started
from vibetuner.tasks.letters.letter import Act, Group
from vibetuner.tasks.letters.stream import parse_letter
from vibetuner.tasks.queues import USUAL

# The newest of each kind; older ones are shown as unreadable on the pages that list them.
LOOKED_AT = 1000


async def misused_keys(redis: Redis[Any], prefix: str, declared: Iterable[str] = ()) -> list[str]:
    """Return our keys whose Redis type is wrong, each with the type that it has and should have.

    The queues are those that are declared, that workers have read, or that have a stream.
    """
    keys = Keys(prefix)
    journal = keys.journal
    queues = {*declared, *USUAL}
    if await redis.type(journal.queues) == "zset":
        queues.update(map(str, await redis.zrange(journal.queues, 0, -1)))
    if await redis.type(keys.made) == "hash":
        queues.update(map(str, await redis.hgetall(keys.made)))
    types = {
        **dict.fromkeys(map(keys.stream, queues), "stream"),
        **dict.fromkeys(map(keys.delayed, queues), "zset"),
        **dict.fromkeys((keys.results, keys.in_line, keys.cron_schedule, journal.queues), "zset"),
        **dict.fromkeys((keys.running, keys.aborted, keys.failing), "set"),
        **dict.fromkeys((keys.unique, keys.made, keys.cron_tabs, keys.cron_queues), "hash"),
        **dict.fromkeys((keys.letters, journal.ended, journal.failed, journal.payloads), "stream"),
        **dict.fromkeys((keys.letter_places, keys.letter_groups, keys.acted), "hash"),
        **dict.fromkeys((journal.ids, journal.cron), "hash"),
        **dict.fromkeys((keys.letter_ids, journal.names, journal.workers), "zset"),
        journal.pulse: "string",
    }
    async with redis.pipeline(transaction=False) as pipe:
        asked = {key: pipe.type(key) for key in types}
    found = {key: str(await one) for key, one in asked.items()}
    return [
        f"{key} is a {found[key]} and should be a {wanted}"
        for key, wanted in types.items()
        if found[key] not in {wanted, "none"}
    ]


async def count_unreadable(redis: Redis[Any], prefix: str) -> dict[str, int]:
    """Return the number of unreadable records by kind, among the newest 1,000; no zeros.

    Raises:
        ResponseError: a key has a wrong type; see :func:`misused_keys`.
    """
    keys = Keys(prefix)
    letters = await redis.xrevrange(keys.letters, count=LOOKED_AT)
    ended = await redis.xrevrange(keys.journal.ended, count=LOOKED_AT)
    workers = [str(one) for one in await redis.zrange(keys.journal.workers, 0, -1)]
    beats = await redis.mget([keys.journal.worker(one) for one in workers]) if workers else ()
    running: list[object] = []
    for one in workers:
        running += (await redis.hgetall(keys.journal.running(one))).values()
    _, acts = await redis.hscan(keys.acted, 0, count=LOOKED_AT)
    groups = await redis.hgetall(keys.letter_groups)
    groups.pop("?", None)
    counts = {
        "dead letters": sum(
            parse_letter(str(entry.field_values.get("letter"))) is None for entry in letters
        ),
        "decisions about dead letters": _count(Act, acts.values()),
        "groups of dead letters": _count(Group, groups.values()),
        "ended tasks": _count(Ended, (entry.field_values.get("d") for entry in ended)),
        "running tasks": _count(Started, running),
        "heartbeats": _count(Beat, (text for text in beats if text is not None)),
    }
    return {kind: number for kind, number in counts.items() if number}


def _count(kind: type[Any], stored: Iterable[object]) -> int:
    return sum(read_or_none(kind, one) is None for one in stored)
