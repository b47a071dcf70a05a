"""docket. Tuned: polls every 10 ms, which its command has no option for, and doesn't log."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from datetime import timedelta

from docket import Docket, Worker
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

COMMAND = (BIN / "docket", "worker", "--url", URL, "--tasks", "with_docket:tasks")
PLAIN = [*COMMAND, "--concurrency", str(CONCURRENCY)]
WORKER = [sys.executable, "-m", "with_docket"] if TUNED else PLAIN


async def noop() -> None:
    note()


tasks = [noop]


@asynccontextmanager
async def client():
    async with Docket(url=URL) as docket:
        docket.register(noop)

        async def result() -> None:
            await (await docket.add(noop)()).get_result()

        # Each add() makes one task; calling its result twice would enqueue the same task again.
        yield lambda: docket.add(noop)(), result  # noqa: PLW0108


if __name__ == "__main__":
    asyncio.run(
        Worker.run(
            url=URL,
            concurrency=CONCURRENCY,
            minimum_check_interval=timedelta(milliseconds=10),
            tasks=["with_docket:tasks"],
        )
    )
