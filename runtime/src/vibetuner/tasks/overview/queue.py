"""The queue that a process looks at: its client, its keys, and what is asked of them most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from coredis import Redis, RedisCluster
from coredis.exceptions import RedisError
from streaq import StreaqError
from streaq.constants import REDIS_ABORT, REDIS_RETRY, REDIS_UNIQUE

from vibetuner.config import get_settings, mask_url
from vibetuner.errors import ServiceUnavailable, first_line
from vibetuner.redis.client import innermost
from vibetuner.redis.keys import JournalKeys
from vibetuner.tasks.journal.entry import Beat, Started
from vibetuner.tasks.overview.model import Counts, Row, State, WorkerView, moment
from vibetuner.tasks.worker import TaskWorker, get_worker

__all__ = ["ANSWER_SECONDS", "Queue", "answering", "now_ms", "this_queue"]

# With what the gate may wait, a page has to come within five seconds.
ANSWER_SECONDS = 3.5


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue, read through the process's open worker."""

    worker: TaskWorker
    keys: JournalKeys

    @property
    def redis(self) -> Redis[str] | RedisCluster[str]:
        """The open client; raises NotConfigured or ServiceUnavailable when there is none."""
        return self.worker.redis

    @property
    def streams(self) -> list[str]:
        """What is waiting to be taken, the most urgent first."""
        return [self.worker.stream_key + priority for priority in self.worker.priorities]

    @property
    def delayed(self) -> list[str]:
        """What is waiting for its time."""
        return [self.worker.queue_key + priority for priority in self.worker.priorities]

    @property
    def abort_key(self) -> str:
        """The ids that somebody wants to end."""
        return self.worker.prefix + REDIS_ABORT

    def retry_key(self, task_id: str) -> str:
        """How often a task was begun."""
        return f"{self.worker.prefix}{REDIS_RETRY}{task_id}"

    def lock_key(self, name: str) -> str:
        """Who holds the lock of a unique task."""
        return f"{self.worker.prefix}{REDIS_UNIQUE}{name}"

    async def workers(self) -> list[WorkerView]:
        """The workers that spoke in the last minute, the longest-lived first."""
        spoke = await self.redis.zrange(self.keys.workers, 0, -1)
        if not spoke:
            return []
        texts = await self.redis.mget([self.keys.worker(str(one)) for one in spoke])
        beats = [Beat.from_json(str(text)) for text in texts if text]
        now = now_ms()
        views = [WorkerView(beat, max(0.0, (now - beat.at) / 1000)) for beat in beats]
        return sorted(views, key=lambda view: (view.beat.started, view.beat.id))

    async def running(self, workers: list[WorkerView] | None = None) -> list[Row]:
        """What runs, the longest first; on a worker that fell silent it counts as lost."""
        views = await self.workers() if workers is None else workers
        async with self.redis.pipeline(transaction=False) as pipe:
            asked = [pipe.hgetall(self.keys.running(view.beat.id)) for view in views]
        rows = [
            _running_row(Started.from_json(str(text)), view)
            for view, found in zip(views, asked, strict=True)
            for text in (await found).values()
        ]
        return sorted(rows, key=lambda row: (str(row.started), row.task_id))

    async def counts(self, workers: list[WorkerView] | None = None) -> Counts:
        """How many tasks there are."""
        running = len(await self.running(workers))
        async with self.redis.pipeline(transaction=False) as pipe:
            streams = [pipe.xlen(key) for key in self.streams]
            delayed = [pipe.zcard(key) for key in self.delayed]
            ended = pipe.xlen(self.keys.ended)
        in_streams = sum([await one for one in streams])
        return Counts(
            queued=max(0, in_streams - running),
            running=running,
            scheduled=sum([await one for one in delayed]),
            ended=await ended,
        )

    async def names(self) -> list[str]:
        """The names of tasks that were seen or are known here."""
        seen = await self.redis.zrange(self.keys.names, 0, -1)
        return sorted({*map(str, seen), *self.worker.registry})

    async def pulse(self) -> tuple[object, ...]:
        """Something else whenever something has happened."""
        async with self.redis.pipeline(transaction=False) as pipe:
            asked: list[Any] = [pipe.get(self.keys.pulse), pipe.zcard(self.keys.workers)]
            asked += [pipe.xlen(key) for key in self.streams]
            asked += [pipe.zcard(key) for key in self.delayed]
            asked.append(pipe.xlen(f"{self.keys.prefix}dead_letters"))
        return tuple([await one for one in asked])

    async def payloads(self, ids: list[str]) -> list[dict[str, Any]]:
        """What was enqueued under these ids; empty where it is gone, or none of ours."""
        if not ids:
            return []
        raw = await self.redis.mget([self.worker.task_key + task_id for task_id in ids])
        return [await self.read(one) for one in raw]

    async def read(self, raw: Any) -> dict[str, Any]:
        """What was stored; empty where it is gone, or none of ours."""
        if not raw:
            return {}
        try:
            data = await self.worker.deserialize(raw)
        except StreaqError:
            return {}
        return data if isinstance(data, dict) else {}


def this_queue() -> Queue:
    """The queue of this process's project."""
    return Queue(get_worker(), JournalKeys(get_settings().redis_key_prefix))


@asynccontextmanager
async def answering(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Say what to check when Redis does not answer in time.

    Raises:
        ServiceUnavailable: it did not, or it refused.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ServiceUnavailable(_silent(f"no answer within {seconds:g} s")) from None
    except (RedisError, OSError, ExceptionGroup) as error:
        inner = innermost(error)
        if not isinstance(inner, RedisError | OSError):
            raise
        raise ServiceUnavailable(_silent(first_line(inner))) from None


def now_ms() -> int:
    """Now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _silent(reason: str) -> str:
    where = mask_url(get_settings().redis_url or "")
    return (
        f"Redis at {where} does not answer: {reason}. Check that it runs, that REDIS_URL is "
        "right, and what  vibetuner doctor  says"
    )


def _running_row(one: Started, view: WorkerView) -> Row:
    return Row(
        task_id=one.task_id,
        name=one.name,
        state=State.RUNNING if view.is_live else State.LOST,
        due=moment(one.queued),
        started=moment(one.started),
        tries=one.tries,
        worker=view.beat.id,
    )
