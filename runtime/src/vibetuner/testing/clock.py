"""The queue's clock: it is moved by making the entries in Redis older.

The worker and the tasks use real time, so every delay is computed by the same code as in
production. The stored times are moved instead: a task that was due in an hour is due now. Only cron
has a clock of its own, whose offset is stored.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from crontab import CronTab

from vibetuner.tasks.engine import cron_id
from vibetuner.tasks.payload import Kind
from vibetuner.tasks.run.delayed import Cron
from vibetuner.tasks.worker import TaskWorker

MILLISECOND = timedelta(milliseconds=1)


def cron_tasks(worker: TaskWorker) -> list[Any]:
    """The registered tasks that run on a schedule."""
    return [task for task in worker.registry.values() if task.crontab]


class QueueClock:
    """The time of a worker's queue. Move it while the worker does not run.

    Args:
        server_time: the server's time, in seconds; a test may have set that of this process.
    """

    def __init__(self, worker: TaskWorker, server_time: float) -> None:
        self._worker = worker
        self._redis: Any = worker.redis
        self._start = server_time - time.monotonic()

    @property
    def now(self) -> datetime:
        """The time, UTC, of the clock that cron uses."""
        return datetime.fromtimestamp(self._start + time.monotonic(), UTC) + self._worker.ahead

    async def next_due(self) -> datetime | None:
        """Return when the next waiting task is due; it may be in the past."""
        scores = [score for key in self._queues() for _, score in await self._members(key, last=0)]
        if not scores:
            return None
        return datetime.fromtimestamp(min(scores) / 1000, UTC) + self._worker.ahead

    async def move_to(self, moment: datetime) -> None:
        """Move the clock to ``moment``; do nothing if that is past."""
        step = math.ceil((moment - self.now) / MILLISECOND)
        if step <= 0:
            return
        await self._age_cron(step)
        for key in self._queues():
            await self._age_set(key, step)
        for priority in self._worker.priorities:
            await self._age_stream(self._worker.stream_key + priority, step)
        await self._age_payloads(step)
        self._worker.ahead += step * MILLISECOND

    def count_cron_runs(self, since: datetime, until: datetime, most: int) -> dict[str, int]:
        """Count the runs of each cron task in that time; stop counting above ``most``."""
        counts: dict[str, int] = {}
        for task in cron_tasks(self._worker):
            tab, due = CronTab(str(task.crontab)), since.astimezone(self._worker.tz)
            while sum(counts.values()) <= most:
                due = tab.next(now=due, return_datetime=True)
                if due is None or due > until:
                    break
                counts[task.fn_name] = counts.get(task.fn_name, 0) + 1
        return counts

    async def start_cron(self, since: datetime) -> None:
        """Schedule the first run of each cron task after ``since``, unless one is scheduled."""
        worker = self._worker
        next_run = partial(worker.next_run, since=since.astimezone(worker.tz))
        cron = Cron(worker.client, queue_of=worker.queue_of, next_run=next_run)
        scheduled = {name for name, _ in await self._members(worker.cron_schedule_key)}
        for task in cron_tasks(worker):
            if task.fn_name not in scheduled:
                await cron.declare(task)

    async def stop_cron(self) -> None:
        """Remove the next run of each cron task from the queue."""
        worker, names = self._worker, {task.fn_name for task in cron_tasks(self._worker)}
        for name, due in await self._members(worker.cron_schedule_key):
            if name not in names:
                continue  # a schedule that the test enqueued
            run_id = cron_id(name, int(due))
            for queue in self._queues():
                await self._redis.zrem(queue, [run_id])
            await self._redis.delete([worker.task_key + run_id])
            await self._redis.zrem(worker.cron_schedule_key, [name])

    def _queues(self) -> list[str]:
        return [self._worker.queue_key + priority for priority in self._worker.priorities]

    async def _members(self, key: str, *, last: int = -1) -> list[tuple[str, float]]:
        members = await self._redis.zrange(key, 0, last, withscores=True)
        return [(str(member), score) for member, score in members]

    async def _age_set(self, key: str, step: int) -> None:
        if aged := {member: score - step for member, score in await self._members(key)}:
            await self._redis.zadd(key, aged)

    async def _age_cron(self, step: int) -> None:
        """Move cron runs; the id of a run contains its time."""
        worker = self._worker
        for name, due in await self._members(worker.cron_schedule_key):
            old, new = (cron_id(name, int(time)) for time in (due, due - step))
            for queue in self._queues():
                if await self._redis.zrem(queue, [old]):
                    await self._redis.zadd(queue, {new: due})
                    await self._move_payload(old, new)
        await self._age_set(worker.cron_schedule_key, step)

    async def _move_payload(self, old: str, new: str) -> None:
        stored = await self._redis.getdel(self._worker.task_key + old)
        if stored is not None:
            codec = self._worker.client.codec
            raw = stored.encode() if isinstance(stored, str) else stored
            payload = codec.seal(codec.open(raw, Kind.CALL, old), Kind.CALL, new)
            await self._redis.set(self._worker.task_key + new, payload)

    async def _age_stream(self, key: str, step: int) -> None:
        for entry in await self._redis.xrange(key):
            fields = dict(entry.field_values)
            fields["enqueue_time"] = int(fields["enqueue_time"]) - step
            await self._redis.xadd(key, fields)
            await self._redis.xdel(key, [entry.identifier])

    async def _age_payloads(self, step: int) -> None:
        """Age ``expire=`` and ``keep=``; a result stays, for the test to look at."""
        keys = self._worker.client.keys
        for family in (keys.data, keys.once, keys.keyed):
            async for key in self._redis.scan_iter(family("*"), count=1000):
                left = await self._redis.pttl(key)
                if left > 0:
                    await self._redis.pexpire(key, left - step)
