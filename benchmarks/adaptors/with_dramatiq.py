"""dramatiq, with threads, its default. Tuned: prefetches a thousand."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

WORKER = [BIN / "dramatiq", "with_dramatiq", "-p", "1", "-t", str(CONCURRENCY)]
if TUNED:
    os.environ["dramatiq_queue_prefetch"] = "1000"  # noqa: SIM112 - its name
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> None:
    note()


@dramatiq.actor(store_results=True)
def answer() -> str:
    return "done"


@asynccontextmanager
async def client():
    yield enqueue, result


async def enqueue() -> None:
    noop.send()


async def result() -> None:
    answer.send().get_result(block=True)
