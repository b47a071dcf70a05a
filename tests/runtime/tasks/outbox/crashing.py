"""Places orders with a receipt each, in processes that kill themselves in the middle.

Run as a program in a project's folder, with the number of orders and a stride. The first process
dies at its first step, the next one so many steps later, until one has come to its end; then from
the beginning. A step is a pass of the event loop, which each await that waits takes, in our code
and in the driver's; and the moment before and after each statement, and before each commit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from pymongo import monitoring
from pymongo.errors import OperationFailure
from sqlalchemy import event, text

from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.resources.mongo import open_mongo
from vibetuner.resources.slots import mongo_database
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.tasks.worker import get_worker

PASSED = 7
STATEMENTS = ("before_cursor_execute", "after_cursor_execute", "commit")


class Fuse:
    """Kills its process after so many steps, once it is lit."""

    left: int | None = None

    def burn(self, *_: Any) -> None:
        """Take a step."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


fuse = Fuse()


class DyingLoop(asyncio.SelectorEventLoop):
    """An event loop whose passes are steps."""

    def _run_once(self) -> None:
        fuse.burn()
        super()._run_once()  # type: ignore[misc]


class Commands(monitoring.CommandListener):
    """The commands of MongoDB are steps."""

    started = succeeded = failed = fuse.burn


async def place_in_sql(number: str) -> None:
    """Insert an order and enqueue its receipt, both or neither."""
    receipt: Any = get_worker().registry["receipt"]
    async with open_session() as session:
        connection = await session.connection()
        await connection.execute(text("INSERT INTO orders (number) VALUES (:n)"), {"n": number})
        await receipt.enqueue(number).within(session)
        await session.commit()


async def place_in_mongo(number: str) -> None:
    """The same in MongoDB; again where the transaction of the one that died is still in the way."""
    while True:
        try:
            return await transact(number)
        except OperationFailure as error:
            if not error.has_error_label("TransientTransactionError"):
                raise
            await asyncio.sleep(0.01)


async def transact(number: str) -> None:
    """Insert an order and its receipt in a transaction of MongoDB."""
    receipt: Any = get_worker().registry["receipt"]
    database = mongo_database.get()
    async with (
        database.client.start_session() as session,
        await session.start_transaction(),
    ):
        await database["orders"].insert_one({"_id": number}, session=session)
        await receipt.enqueue(number).within(session)


async def live(number: str, steps: int) -> None:
    """Place an order, and die after so many steps."""
    settings = get_settings()
    if settings.mongodb_url:
        monitoring.register(Commands())
        opened: Any = open_mongo(settings, load_project())
    else:
        opened = open_sql(settings)
    async with opened as engine, get_worker() as worker:
        if not settings.mongodb_url:
            for name in STATEMENTS:
                event.listen(engine.sync_engine, name, fuse.burn)
        fuse.left = steps
        await (place_in_mongo if settings.mongodb_url else place_in_sql)(number)
        await worker.courier.close()
        fuse.left = None
        os._exit(PASSED)


def main(orders: int, stride: int) -> None:
    """Place the orders, each in a process of its own; print how many steps one takes."""
    load_project()
    steps = most = 0
    for number in range(orders):
        child = os.fork()
        if not child:
            loop = DyingLoop()
            asyncio.set_event_loop(loop)
            loop.run_until_complete(live(f"T{number}", steps))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            steps += stride
            most = max(most, steps)
        elif os.WEXITSTATUS(status) == PASSED:
            steps = 0
        else:
            raise SystemExit(f"order {number} has failed")
    print(most)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
