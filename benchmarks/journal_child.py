"""A process of journal.py: enqueues no-op tasks, then runs a worker until the queue is empty."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from uuid import uuid4

variant, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ |= {
    "REDIS_URL": url,
    "REDIS_KEY_PREFIX": f"journal-{uuid4().hex[:8]}",
    "SECRET_KEY": "for benchmarks only" * 2,
    "WORKER_CONCURRENCY": "32",
    "ENVIRONMENT": "test",
}


def leave_out_the_journal() -> None:
    """Replace the workers' journal by one that records nothing."""
    from vibetuner.tasks.observers import Observer
    from vibetuner.tasks.run import runner

    class Silent(Observer):
        def __init__(self, *_: object, **__: object) -> None: ...

        async def run(self, _running: object) -> None:
            await asyncio.Event().wait()

    runner.JournalObserver = Silent  # type: ignore[assignment,misc]


async def main() -> None:
    """Enqueue ``count`` tasks together, then drain them."""
    from vibetuner.logs import configure_logging
    from vibetuner.tasks.robust import robust_task

    if variant == "without":
        leave_out_the_journal()
    configure_logging(debug=False, as_json=True)

    moments: list[float] = []

    @robust_task()
    async def noop() -> None:
        moments.append(time.perf_counter())

    worker = noop.worker
    async with worker:
        await worker.enqueue_many([noop.enqueue() for _ in range(count)])
    worker.burst = True
    before = time.process_time()
    await worker.run_async()
    spent = time.process_time() - before
    # From the first task to the last: a worker in burst mode may take two idle seconds to stop, and
    # does so more often without the journal.
    drained = (len(moments) - 1) / (moments[-1] - moments[0])
    print(json.dumps({"drained": drained, "spent": spent / count * 1e6}))


asyncio.run(main())
