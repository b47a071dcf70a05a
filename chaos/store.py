"""Reads the tasks from Redis and MongoDB, once the faults are over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from pymongo import AsyncMongoClient
from streaq.types import StreaqCancelled

from chaos import outbox
from chaos.journal import QUEUES
from chaos.ledger import Letter, Result, Stored
from vibetuner.app import VibetunerApp
from vibetuner.config import Settings, using_settings
from vibetuner.tasks.worker import TaskWorker

__all__ = ["look", "wait_until_idle"]

LETTERS = "dead_letters"
RELAY_SECONDS = 45
CHUNK = 500
# The keys of tasks that have not ended; those of cron tasks wait for the next minute.
LEFT_OVER = (
    "retry", "dependents", "dependencies", "queue", "fallback", "lock", "unique", "line", "blamed",
)  # fmt: skip


async def wait_until_idle(
    settings: Settings, known: Callable[[], set[str]], seconds: float
) -> float | None:
    """Wait until no known task waits or runs; return the seconds, or None if some still do.

    A cron task that is scheduled for its next minute is not known yet, and does not count.
    """
    began = time.monotonic()
    async with _opened(settings) as worker:
        while await _queued(settings, worker) & known():
            if time.monotonic() - began > seconds:
                return None
            await asyncio.sleep(1)
        took = time.monotonic() - began
        await _wait_for_relay(settings, worker)
    return took


async def look(settings: Settings, task_ids: Iterable[str]) -> Stored:
    """Return everything that the ledger needs from the stores."""
    async with _opened(settings) as worker:
        streamed = await _streamed_letters(settings, worker)
        return Stored(
            queued=frozenset(await _queued(settings, worker)),
            results=await _results(worker, list(task_ids)),
            letters=streamed | await _moved_letters(settings),
            letters_not_moved=len(streamed),
            left_over=frozenset(await _left_over(worker)),
        )


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[TaskWorker]:
    """Open a worker that is connected and runs nothing."""
    with using_settings(settings):
        async with TaskWorker(settings, lambda: VibetunerApp(queues=[*QUEUES])) as worker:
            yield worker


async def _queued(settings: Settings, worker: TaskWorker) -> set[str]:
    """Return the tasks that wait in the outbox, for a worker or for other tasks, or run."""
    found = await outbox.waiting(settings)  # read first, as they move from there to the queue
    for priority in worker.priorities:
        entries = await worker.redis.xrange(worker.stream_key + priority)
        found |= {str(entry.field_values["task_id"]) for entry in entries}
        found |= {
            str(name) for name in await worker.redis.zrange(worker.queue_key + priority, 0, -1)
        }
    return found | await _ids_of(worker, "data")


async def _ids_of(worker: TaskWorker, kind: str) -> set[str]:
    """Return the tasks that have a key of this kind."""
    start = f"{worker.prefix}:task:{kind}:"
    return {str(key)[len(start) :] async for key in worker.redis.scan_iter(f"{start}*", count=1000)}


async def _left_over(worker: TaskWorker) -> set[str]:
    """Return what no task of an idle queue needs."""
    found = {f"{kind} {one}" for kind in LEFT_OVER for one in await _ids_of(worker, kind)}
    keys, redis = worker.client.keys, worker.redis
    found |= {f"unique {one}" for one in await redis.hkeys(keys.unique)}
    found |= {f"in line {one}" for one in await redis.zrange(keys.in_line, 0, -1)}
    return found | {f"marked {one}" for one in await redis.smembers(keys.aborted)}


async def _results(worker: TaskWorker, task_ids: Sequence[str]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for start in range(0, len(task_ids), CHUNK):
        names = task_ids[start : start + CHUNK]
        stored = await worker.redis.mget([worker.results_key + name for name in names])
        for name, raw in zip(names, stored, strict=True):
            if raw is not None:
                results[name] = _result(await worker.deserialize(raw))
    return results


def _result(stored: dict[str, Any]) -> Result:
    if stored["s"]:
        return "done"
    return "aborted" if isinstance(stored["r"], StreaqCancelled) else "failed"


async def _streamed_letters(settings: Settings, worker: TaskWorker) -> dict[str, Letter]:
    entries = await worker.redis.xrange(settings.redis_key_prefix + LETTERS)
    values = (json.loads(str(entry.field_values["letter"])) for entry in entries)
    return {found["task_id"]: _letter(found) for found in values}


async def _moved_letters(settings: Settings) -> dict[str, Letter]:
    async with AsyncMongoClient[dict[str, Any]](settings.mongodb_url, tz_aware=True) as client:
        found = await client.get_default_database()[LETTERS].find().to_list()
    return {values["task_id"]: _letter(values) for values in found}


def _letter(values: dict[str, Any]) -> Letter:
    at = values["failed_at"]
    moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    return Letter(values["task_name"], values.get("cause"), values["tries"], moment.timestamp())


async def _wait_for_relay(settings: Settings, worker: TaskWorker) -> None:
    """Give the workers time to move the last letters; after an outage they back off."""
    deadline = time.monotonic() + RELAY_SECONDS
    while time.monotonic() < deadline:
        if not await _streamed_letters(settings, worker):
            return
        await asyncio.sleep(0.5)
