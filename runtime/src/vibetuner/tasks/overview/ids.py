"""Ids as people type them: the first characters, as the log shows them, will do."""

from __future__ import annotations

import re
from typing import Any

from vibetuner.errors import TaskError
from vibetuner.tasks.overview.queue import Queue

__all__ = ["SHORTEST", "whole_id"]

SHORTEST = 8
WHOLE = 32
COUNT = 5000
NAMED = 3


async def whole_id(queue: Queue, text: str) -> str:
    """The id that begins with ``text``; ``text`` itself where it is one, or begins none.

    Looked for among the tasks that run, are scheduled, have ended, or are the oldest 5,000 in the
    queue; nothing else in Redis is searched.

    Raises:
        TaskError: several begin so.
    """
    if not SHORTEST <= len(text) < WHOLE or not re.fullmatch(r"[\w-]+", text, re.ASCII):
        return text
    if await _is_known(queue, text):
        return text
    found = sorted(await _that_begin(queue, text))
    if len(found) > 1:
        named = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
        raise TaskError(f"{len(found)} tasks begin with {text}: {named}. Take more of the id")
    return found[0] if found else text


async def _is_known(queue: Queue, text: str) -> bool:
    async with queue.redis.pipeline(transaction=False) as pipe:
        keys = [queue.worker.task_key + text, queue.worker.results_key + text]
        asked = [pipe.exists([key]) for key in keys]
        ended = pipe.hexists(queue.keys.ids, text)
    return any([await one for one in asked]) or bool(await ended)


async def _that_begin(queue: Queue, text: str) -> set[str]:
    found = {row.task_id for row in await queue.running() if row.task_id.startswith(text)}
    for key in queue.streams:
        entries = await queue.redis.xrange(key, count=COUNT)
        ids = [str(entry.field_values.get("task_id", "")) for entry in entries]
        found |= {task_id for task_id in ids if task_id.startswith(text)}
    for key in queue.delayed:
        found |= await _scan(queue.redis.zscan, key, text)
    return found | await _scan(queue.redis.hscan, queue.keys.ids, text)


async def _scan(scan: Any, key: str, text: str) -> set[str]:
    """The members of one key that begin so; sets hold pairs, hashes names."""
    found: set[str] = set()
    cursor = 0
    while True:
        cursor, some = await scan(key, cursor, match=f"{text}*", count=COUNT)
        found |= {str(one if isinstance(some, dict) else one[0]) for one in some}
        if not cursor:
            return found
