"""One process of drain.py: enqueues no-op tasks, then runs a worker until the queue is empty."""

from __future__ import annotations

import asyncio
import json
import logging.config
import os
import sys
import time
from typing import Any
from uuid import uuid4

variant, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ |= {
    "REDIS_URL": url,
    "REDIS_KEY_PREFIX": f"drain-{uuid4().hex[:8]}",
    "SECRET_KEY": "benchmark" * 8,
    "WORKER_CONCURRENCY": "32",
    "ENVIRONMENT": "test",
}


def make_engine_task() -> Any:
    """A task of streaq's own worker, with the log lines that its command line turns on."""
    from datetime import UTC

    from streaq import Worker
    from streaq.utils import default_log_config

    logging.config.dictConfig(default_log_config(UTC, verbose=False))
    secret = os.environ["SECRET_KEY"] if variant == "streaq signed" else None
    worker: Worker[None] = Worker(
        url,
        queue_name=os.environ["REDIS_KEY_PREFIX"],
        concurrency=32,
        signing_secret=secret,
        handle_signals=False,
    )

    @worker.task()
    async def noop() -> None:
        pass

    return noop


def make_our_task() -> Any:
    """A task of ours, logged as in production."""
    from vibetuner.logs import configure_logging
    from vibetuner.tasks.robust import robust_task
    from vibetuner.tasks.worker import get_worker

    configure_logging(debug=False, as_json=True)
    decorate = robust_task() if variant == "robust" else get_worker().task()

    @decorate
    async def noop() -> None:
        pass

    return noop


async def main() -> None:
    """Enqueue ``count`` tasks one by one, then drain them."""
    task = make_engine_task() if variant.startswith("streaq") else make_our_task()
    worker = task.worker
    async with worker:
        began = time.perf_counter()
        for _ in range(count):
            await task.enqueue()
        enqueued = count / (time.perf_counter() - began)
    worker.burst = True
    began = time.perf_counter()
    await worker.run_async()
    drained = count / (time.perf_counter() - began)
    print(json.dumps({"enqueued": enqueued, "drained": drained}))


asyncio.run(main())
