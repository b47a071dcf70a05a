"""Finds keys that would stay in Redis for ever."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from vibetuner.config import get_settings
from vibetuner.tasks.worker import TaskWorker


async def lasting_keys(worker: TaskWorker, allowed: Iterable[str]) -> list[str]:
    """Return the keys without an expiry that belong to no waiting task, sorted.

    Allowed are the structure of the queue, dead letters, results that are kept on request, and keys
    that match one of the patterns in ``allowed``.
    """
    may_stay = [*_structure(worker), *allowed]
    waiting = await _waiting(worker)
    families = f"{worker.prefix}:task:"
    redis: Any = worker.redis
    return sorted(
        [
            key
            async for key in redis.scan_iter(count=1000)
            if not any(fnmatchcase(key, pattern) for pattern in may_stay)
            and key.removeprefix(families).partition(":")[2] not in waiting
            and await redis.pttl(key) == -1
        ]
    )


def _structure(worker: TaskWorker) -> list[str]:
    places = ("queues:*", "cron:*", "index:*", "aborted", "failing", "made", "unique", "line")
    ends = ("task:results:*", "task:failed:*")
    ours = ("dead_letters", "dead_letters:*")
    prefix = get_settings().redis_key_prefix
    return [f"{worker.prefix}:{place}" for place in (*places, *ends)] + [
        f"{prefix}{key}" for key in ours
    ]


async def _waiting(worker: TaskWorker) -> set[str]:
    """Return the ids of tasks that are queued, scheduled, or wait for another; and their groups."""
    redis: Any = worker.redis
    ids: set[str] = set()
    for priority in worker.priorities:
        ids.update(await redis.zrange(worker.queue_key + priority, 0, -1))
        for entry in await redis.xrange(worker.stream_key + priority):
            ids.add(str(entry.field_values["task_id"]))
    for prefix in (worker.dependencies_key, worker.dependents_key):
        async for key in redis.scan_iter(f"{prefix}*", count=1000):
            ids.add(key.removeprefix(prefix))
    for task_id, noted in (await redis.hgetall(worker.client.keys.unique)).items():
        if await redis.exists([worker.client.keys.data(task_id)]):
            ids |= {task_id, json.loads(noted)[0]}
    return ids
