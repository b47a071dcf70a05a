"""Unique tasks that wait in line, and lines that are stuck."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vibetuner.redis.keys import Keys
from vibetuner.tasks.letters.stream import Client

# The number of tasks in line that are checked, oldest first.
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class StuckLine:
    """A line behind a task that no worker can reach.

    >>> StuckLine("ab12", "charge:9f", 1).text
    '1 task waits in the line charge:9f behind ab12, which is in no queue any more'
    """

    holder: str
    group: str
    waiting: int

    @property
    def text(self) -> str:
        """Return the line in words."""
        tasks = "1 task waits" if self.waiting == 1 else f"{self.waiting} tasks wait"
        return (
            f"{tasks} in the line {self.group} behind {self.holder}, which is in no queue any more"
        )

    @property
    def cure(self) -> str:
        """Return the command that lets the next task in line run."""
        return f"vibetuner tasks abort {self.holder}"


async def find_stuck_lines(redis: Client, keys: Keys) -> list[StuckLine]:
    """Return the stuck lines among those of the oldest tasks in line."""
    ids = [str(one) for one in await redis.zrange(keys.in_line, 0, LOOKED_AT - 1)]
    found = await redis.hmget(keys.unique, ids) if ids else ()
    groups = Counter(_read_member(one)[0] for one in found if one)
    stuck = []
    for group in filter(None, groups):
        holder = await holder_of(redis, keys, group)
        if holder and await is_stranded(redis, keys, group, holder):
            stuck.append(StuckLine(holder, group, await redis.zcard(keys.line(group))))
    return stuck


async def holder_of(redis: Client, keys: Keys, group: str) -> str:
    """Return the task that holds a group; empty if there is none."""
    return str(await redis.hget(keys.holder(group), "holder") or "")


async def is_stranded(redis: Client, keys: Keys, group: str, holder: str) -> bool:
    """Return whether a holder is neither in its stream nor delayed, like lua/line.lua."""
    known = await _holder_and_message(redis, keys, group)
    priority = _read_member(await redis.hget(keys.unique, holder))[1]
    if known[0] != holder or await redis.zscore(keys.delayed(priority), holder) is not None:
        return False
    message = known[1]
    if message != "-" and await redis.xrange(keys.stream(priority), message, message):
        return False
    # If holder or message has changed meanwhile, the line moves.
    return known == await _holder_and_message(redis, keys, group)


async def _holder_and_message(redis: Client, keys: Keys, group: str) -> tuple[str, str]:
    holder, message = await redis.hmget(keys.holder(group), ["holder", "message"])
    return str(holder or ""), str(message or "-")


def _read_member(stored: Any) -> tuple[str, str]:
    """Return the group and the queue of a unique task; empty if they can't be read."""
    try:
        group, priority, _ = json.loads(stored or "")
    except (TypeError, ValueError):
        return "", ""
    return str(group), str(priority)
