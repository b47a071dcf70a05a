"""taskiq over a Redis stream, with acknowledgements. Tuned: prefetches, logs warnings only."""

from __future__ import annotations

from contextlib import asynccontextmanager

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

AHEAD = ("--max-prefetch", "1000", "--no-parse", "--log-level", "WARNING")
WORKER = [
    BIN / "taskiq", "worker", "with_taskiq:broker", "--workers", "1",
    "--max-async-tasks", str(CONCURRENCY), *(AHEAD if TUNED else ()),
]  # fmt: skip
broker = RedisStreamBroker(URL, consumer_id="0", xread_count=1000 if TUNED else 100)
broker = broker.with_result_backend(RedisAsyncResultBackend(URL))


@broker.task
async def noop() -> None:
    note()


@asynccontextmanager
async def client():
    await broker.startup()
    yield noop.kiq, result


async def result() -> None:
    task = await noop.kiq()
    await (task.wait_result(check_interval=0.002) if TUNED else task.wait_result())
