"""Enqueues tasks at random until its time is over: ``python -m app.producer <seed> <seconds>``.

A task is *accepted* once ``enqueue`` has returned; that is noted before anything else is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from secrets import token_hex
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from coredis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from streaq.task import Task

from chaos.journal import note
from vibetuner.config import get_settings
from vibetuner.errors import VibetunerError
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.tasks.call import TaskCall
from vibetuner.tasks.worker import open_queue

from .tasks import mix

AnyTask = Task[Any, Any]

PASSING = (VibetunerError, RedisError, OSError, TimeoutError, anyio.ClosedResourceError)
INSERT = text("INSERT INTO orders (number) VALUES (:number)")
ANSWER_SECONDS = 10
MEAN_PAUSE = 0.22

# The calls with one key, on average, and the transactions of which one is rolled back.
SAME_KEY, ROLLED_BACK = 3, 4

# How many of a hundred tasks are of each kind.
SHARES = {
    "quick": 26, "committed": 10, "keyed": 10, "slow": 13, "threaded": 6, "hopeless": 6, "flaky": 8,
    "too_slow": 3, "sick": 1, "poisonous": 1, "one_at_a_time": 4, "perishable": 5, "endless": 5,
    "ticking": 2,
}  # fmt: skip


class Producer:
    """Draws one task after the other; its choices depend only on the seed."""

    def __init__(self, seed: str, aborts: TaskGroup) -> None:
        self._chance = Random(seed)  # noqa: S311 - repeatable on purpose
        self._aborts = aborts
        self._keys = 0

    async def produce(self, seconds: float) -> None:
        """Enqueue tasks for so many seconds, whatever happens to Redis."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await self._produce_one()

    async def _produce_one(self) -> None:
        kind = self._chance.choices(list(SHARES), list(SHARES.values()))[0]
        patience, pause = self._chance.uniform(0.1, 4), self._chance.expovariate(1 / MEAN_PAUSE)
        task = self._draw(kind)
        if kind == "committed":
            await _commit(task, is_kept=bool(self._chance.randrange(ROLLED_BACK)))
        elif kind == "keyed":
            await _enqueue_keyed(task)
        else:
            await _enqueue(task, kind)
        if kind == "endless":
            self._aborts.start_soon(_abort, task, patience)
        await anyio.sleep(pause)

    def _draw(self, kind: str) -> AnyTask:
        chance = self._chance
        draws: dict[str, Callable[[], AnyTask]] = {
            "slow": lambda: mix.slow.enqueue(round(chance.uniform(2, 6), 1)),
            "threaded": lambda: mix.threaded.enqueue(round(chance.uniform(0.1, 2.5), 1)),
            "hopeless": lambda: mix.hopeless.enqueue("there is no hope"),
            "flaky": lambda: mix.flaky.enqueue(chance.randint(2, 3)),
            "sick": lambda: mix.sick.enqueue(chance.randint(2, 3)),
            "one_at_a_time": lambda: mix.one_at_a_time.enqueue(round(chance.uniform(0.2, 1.5), 1)),
            "committed": lambda: mix.committed.enqueue(token_hex(8)),
            "keyed": self._draw_keyed,
            # Every second one is delayed beyond its expiry.
            "perishable": lambda: mix.perishable.enqueue().start(delay=chance.choice([None, 4])),
        }
        draw: Callable[[], AnyTask] = draws.get(kind, getattr(mix, kind).enqueue)
        return draw()

    def _draw_keyed(self) -> AnyTask:
        self._keys += 1
        # One of the last keys, so that their calls meet what has happened to the first one.
        event = f"evt-{max(0, self._keys // SAME_KEY - self._chance.randrange(3))}"
        return mix.keyed.enqueue(event)


async def _commit(task: AnyTask, *, is_kept: bool) -> None:
    """Store an order and its task in one transaction, which may be rolled back."""
    verdict = "unknown"
    with suppress(*PASSING, SQLAlchemyError, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
        async with open_session() as session:
            connection = await session.connection()
            await connection.execute(INSERT, {"number": task.args[0]})
            await cast("TaskCall[Any, Any]", task).within(session)
            if is_kept:
                await session.commit()
        verdict = "accepted" if is_kept else "withdrawn"
    note(verdict, id=task.id, kind="committed")


async def _enqueue_keyed(task: AnyTask) -> None:
    verdict, key = "unknown", str(task.args[0])
    call = cast("TaskCall[Any, Any]", task).once(key)
    with suppress(*PASSING, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
        await call
        verdict = "accepted"
    note(verdict, id=call.id, kind="keyed", key=key)


async def _enqueue(task: AnyTask, kind: str) -> None:
    verdict = "unknown"
    with suppress(*PASSING, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
        await task
        verdict = "accepted"
    note(verdict, id=task.id, kind=kind)


async def _abort(task: AnyTask, patience: float) -> None:
    """Abort a task, and repeat that until it succeeds, as a person would."""
    await anyio.sleep(patience)
    for _ in range(10):
        answer = "error"
        with suppress(*PASSING, ExceptionGroup):
            answer = "yes" if await task.abort(timeout=ANSWER_SECONDS) else "no"
        note("abort", id=task.id, answer=answer)
        if answer != "error":
            return
        await anyio.sleep(1)


async def main(seed: str, seconds: float) -> None:
    """Produce for ``seconds``, then wait for the last aborts."""
    async with open_sql(get_settings()), anyio.create_task_group() as queue:
        queue.start_soon(_hold_queue_open)
        async with anyio.create_task_group() as aborts:
            await Producer(seed, aborts).produce(seconds)
        queue.cancel_scope.cancel()


async def _hold_queue_open() -> None:
    while True:
        with suppress(*PASSING, ExceptionGroup):
            async with open_queue():
                await anyio.sleep_forever()
        await anyio.sleep(0.2)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], float(sys.argv[2]))
