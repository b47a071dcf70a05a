"""RQ, which runs one task at a time. Tuned: SimpleWorker, which doesn't fork for each."""

from __future__ import annotations

from contextlib import asynccontextmanager

from redis import Redis
from rq import Queue
from yardstick import BIN, TUNED, URL, note

SIMPLE = ("--worker-class", "rq.SimpleWorker", "--quiet", "--disable-job-desc-logging")
WORKER = [BIN / "rq", "worker", "--url", URL, "--path", ".", *(SIMPLE if TUNED else ())]
queue = Queue(connection=Redis.from_url(URL))


def noop() -> None:
    note()


@asynccontextmanager
async def client():
    yield enqueue, result


async def enqueue() -> None:
    queue.enqueue("with_rq.noop")


async def result() -> None:
    queue.enqueue("with_rq.noop").latest_result(timeout=10)
