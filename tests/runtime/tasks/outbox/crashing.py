"""Places orders with a receipt each, in processes that kill themselves in the middle.

Run as a program in a project's folder, with the number of orders and a stride. The first process
dies at its first pass of the event loop, the next one so many passes later, until one has come to
its end; then from the beginning. Each await that waits takes a pass: those of insert, enqueue,
commit and hand on, in our code and in the driver's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from sqlalchemy import text

from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.tasks.worker import get_worker

PASSED = 7


class DyingLoop(asyncio.SelectorEventLoop):
    """An event loop that kills its process at a pass."""

    left: int | None = None

    def _run_once(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        super()._run_once()  # type: ignore[misc]


async def place(number: str) -> None:
    """Insert an order and enqueue its receipt, both or neither."""
    receipt = get_worker().registry["receipt"]
    async with open_session() as session:
        connection = await session.connection()
        await connection.execute(text("INSERT INTO orders (number) VALUES (:n)"), {"n": number})
        await receipt.enqueue(number).within(session)  # type: ignore[union-attr]
        await session.commit()


async def live(number: str, passes: int) -> None:
    """Place an order, and die after so many passes of the loop."""
    async with open_sql(get_settings()), get_worker() as worker:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DyingLoop)
        loop.left = passes
        await place(number)
        await worker.courier.close()
        loop.left = None
    os._exit(PASSED)


def main(orders: int, stride: int) -> None:
    """Place the orders, each in a process of its own; print how many passes one takes."""
    load_project()
    passes = most = 0
    for number in range(orders):
        child = os.fork()
        if not child:
            loop = DyingLoop()
            asyncio.set_event_loop(loop)
            loop.run_until_complete(live(f"T{number}", passes))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            passes += stride
            most = max(most, passes)
        elif os.WEXITSTATUS(status) == PASSED:
            passes = 0
        else:
            raise SystemExit(f"order {number} has failed")
    print(most)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
