"""SAQ. Tuned: more operations at a time than its 20; looks every 2 ms for a result.

Waiting by its own subscription (`Job.refresh(until_complete=...)`) misses a result now and then
that comes between its look and its subscription.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

from saq import Queue
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

WORKER = [BIN / "saq", "with_saq.settings"]
queue = Queue.from_url(URL, **({"max_concurrent_ops": 200} if TUNED else {}))


async def noop(_ctx: Any) -> None:
    note()


settings = {"queue": queue, "functions": [noop], "concurrency": CONCURRENCY}


@asynccontextmanager
async def client():
    often = {"poll_interval": 0.002} if TUNED else {}
    yield lambda: queue.enqueue("noop"), lambda: queue.apply("noop", **often)
