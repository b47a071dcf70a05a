"""Celery, prefork or threads. Tuned: reads ahead, and talks to no other worker."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

from celery import Celery
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

POOL = os.environ.get("BENCH_POOL", "threads")
# A process a core is what prefork begins with; threads are as many as others run tasks.
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
