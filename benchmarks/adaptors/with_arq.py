"""arq. Tuned: polls every 10 ms, has a thousand slots, and doesn't log results."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

WORKER = [BIN / "arq", "with_arq.WorkerSettings"]


async def noop(_ctx: Any) -> None:
    note()


class WorkerSettings:
    functions = (noop,)
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = CONCURRENCY
    if TUNED:
        poll_delay = 0.01
        queue_read_limit = 1000
        log_results = False


@asynccontextmanager
async def client():
    pool = await create_pool(WorkerSettings.redis_settings)

    async def result() -> None:
        job = await pool.enqueue_job("noop")
        await job.result(poll_delay=0.002 if TUNED else 0.5)

    yield lambda: pool.enqueue_job("noop"), result
