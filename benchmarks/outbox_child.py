"""A process of outbox.py: hands on a backlog, then places orders with a receipt."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import anyio
from both import configure, make_task
from sqlalchemy import text

url, database = sys.argv[1:]
TURNS, TURN, BACKLOG, AT_ONCE, STARTS = 8, 50, 3000, 100, 100
configure(url)
os.environ["DATABASE_URL"] = database
started: dict[str, float] = {}


async def receipt(number: str) -> None:
    """Note the time of its start."""
    started[number] = time.perf_counter()


async def main() -> None:
    """Hand on a backlog, then time both ways in turn, then the starts on a worker."""
    from vibetuner.config import get_settings
    from vibetuner.resources.sql import create_schema, open_session, open_sql
    from vibetuner.tasks.outbox.sql import Outbox

    task = make_task("robust", receipt)
    await create_schema(get_settings(), [Outbox])
    async with open_sql(get_settings()) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE orders (number VARCHAR PRIMARY KEY)"))

        async def insert(session: Any, number: str) -> None:
            connection = await session.connection()
            await connection.execute(text("INSERT INTO orders VALUES (:n)"), {"n": number})

        async def within(number: str) -> None:
            async with open_session() as session:
                await insert(session, number)
                await task.enqueue(number).within(session)
                await session.commit()

        async def plain(number: str) -> None:
            async with open_session() as session:
                await insert(session, number)
                await session.commit()
            await task.enqueue(number)

        for _ in range(BACKLOG // AT_ONCE):
            async with open_session() as session:
                for _ in range(AT_ONCE):
                    await task.enqueue("backlog").within(session)
                await session.commit()
        figures: dict[str, float] = {}
        async with task.worker:
            began = time.perf_counter()
            await task.worker.courier.hand_on_all()
            figures["handed"] = BACKLOG / (time.perf_counter() - began)
            times = await in_turn(task.worker.courier, within, plain)
            figures |= spread("p50", "p99", times[0]) | spread("p50 plain", "p99 plain", times[1])
        figures["to start"] = await to_start(task, within)
    print(json.dumps(figures), flush=True)
    os._exit(0)


async def in_turn(courier: Any, *ways: Callable[[str], Awaitable[None]]) -> list[list[float]]:
    """Return the milliseconds of each way, sorted."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(TURNS):
        for way, (place, seen) in enumerate(zip(ways, times, strict=True)):
            for number in range(TURN):
                began = time.perf_counter()
                await place(f"T{turn}-{number}-{way}")
                seen.append((time.perf_counter() - began) * 1000)
            await courier.close()
    return [sorted(seen) for seen in times]


def spread(half: str, most: str, times: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    return {half: times[len(times) // 2], most: times[int(len(times) * 0.99)]}


async def to_start(task: Any, within: Callable[[str], Awaitable[None]]) -> float:
    """Return the median milliseconds from a commit to the start of its task."""
    seen = []
    async with anyio.create_task_group() as group:
        await group.start(partial(task.worker.run_async, lifespan=nullcontext()))
        while await task.worker.queue_size():  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.05)
        for number in range(STARTS):
            await within(f"S{number}")
            committed = time.perf_counter()
            while f"S{number}" not in started:  # noqa: ASYNC110 - what is measured is noted there
                await asyncio.sleep(0.001)
            seen.append((started[f"S{number}"] - committed) * 1000)
        task.worker.stop()
    return sorted(seen)[STARTS // 2]


asyncio.run(main())
