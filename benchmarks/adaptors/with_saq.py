"""SAQ. Tuned: more operations at a time than its 20, and polls for results every 2 ms.

Its own subscription (`Job.refresh(until_complete=...)`) misses a result that comes between its
first read and its subscription.
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
