"""Unique tasks that wait in line, and lines that are stuck."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coredis.exceptions import ResponseError

from vibetuner.redis.functions import Scripts
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
    groups = dict.fromkeys(filter(None, map(_group_of, found)))
    lines = [await find_stuck_line(redis, keys, group) for group in groups]
    return [one for one in lines if one]


async def find_stuck_line(redis: Client, keys: Keys, group: str) -> StuckLine | None:
    """Return the line of a group if it is stuck, or if there would be one behind its holder."""
    with suppress(ResponseError):  # a record that can't be read
        if found := await Scripts(redis).call("stuck_line", (keys.queue,), [group]):
            return StuckLine(str(found[0]), group, int(found[1]))
    return None


def _group_of(stored: Any) -> str:
    """Return the group of a unique task; empty if it can't be read."""
    try:
        group, _, _ = json.loads(stored or "")
    except (TypeError, ValueError):
        return ""
    return str(group)
