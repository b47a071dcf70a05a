"""tarsk, whose supervisor is written in Rust. Tuned: polls for results every millisecond.

Unlike ours it doesn't sign, log or journal tasks.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

from tarsk import App, AsyncResult
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

WORKER = [
    BIN / "tarsk", "worker", "--app", "with_tarsk:app", "--broker", URL,
    "--queues", "default", "--children", "1", "--slots", str(CONCURRENCY),
]  # fmt: skip
app = App(broker=URL)


@app.task(result_ttl=86400)
async def noop() -> None:
    note()


@asynccontextmanager
async def client():
    yield enqueue, result


async def enqueue() -> None:
    noop.send()


async def result() -> None:
    waiting = AsyncResult(app, noop.send())
    await waiting.get_async(timeout=30, **({"poll": 0.001} if TUNED else {}))
