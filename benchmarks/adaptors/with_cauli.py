"""cauli, whose worker is a Rust program. Tuned: polls for results every millisecond.

Unlike ours it doesn't sign, log or journal tasks, and it encodes arguments and results as JSON.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

from cauli import AsyncCauli
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

WORKER = [BIN / "cauli-worker", "-A", "with_cauli:app", "-c", str(CONCURRENCY), "--procs", "1"]
app = AsyncCauli(redis_url=URL)


@app.task()
async def noop() -> None:
    note()


@asynccontextmanager
async def client():
    yield noop.adelay, result


async def result() -> None:
    await (await noop.adelay()).aget(timeout=30, **({"poll_interval": 0.001} if TUNED else {}))
