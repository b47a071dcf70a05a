"""Celery, prefork or threads. Tuned: prefetches, and exchanges no messages with other workers."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

from celery import Celery
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

POOL = os.environ.get("BENCH_POOL", "threads")
# By default prefork runs one process a core; the pool of threads is as large as other workers'
# slots.
AT_ONCE = {"threads": CONCURRENCY, "prefork": os.cpu_count()}[POOL]
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--prefetch-multiplier")
WORKER = [
    BIN / "celery", "-A", "with_celery", "worker", "--pool", POOL, "--concurrency", str(AT_ONCE),
    *((*QUIET, "128") if TUNED else ()),
]  # fmt: skip
app = Celery("with_celery", broker=URL, backend=URL)


@app.task(ignore_result=True)
def noop() -> None:
    note()


@app.task
def answer() -> None:
    pass


@asynccontextmanager
async def client():
    yield enqueue, result


async def enqueue() -> None:
    noop.delay()


async def result() -> None:
    answer.delay().get()
