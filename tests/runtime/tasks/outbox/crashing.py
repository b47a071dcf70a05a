"""Places orders, each with the task of its receipt, in processes that kill themselves.

The program runs in a project's folder; its arguments are the number of orders and a stride. The
first process dies at its first step, and each next one a stride of steps later, until one gets to
its end; the one after that dies at its first step again.

A step is a pass of the event loop, as each await that waits takes one, in our code and in the
driver's. The moments before and after each statement, and before each commit, are steps, too.
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
    """A counter that kills its process after the number of steps in ``left``."""

    left: int | None = None

    def burn(self, *_: Any) -> None:
        """Count a step."""
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
    """A listener that counts the commands of MongoDB as steps."""

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
    """Place an order in MongoDB, and retry while a dead process's transaction is in the way.

    The steps count from the last try: how long a dead process's transaction lives depends on the
    machine.
    """
    steps = fuse.left
    while True:
        fuse.left = steps
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
    """Place an order, and die after ``steps`` steps."""
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
    """Place each order in a process of its own, and print how many steps one takes."""
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
