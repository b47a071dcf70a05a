"""Enqueues tasks at random until its time is over: ``python -m app.producer <seed> <seconds>``.

A task is *accepted* once ``enqueue`` has returned; that is noted before anything else is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import anyio
from anyio.abc import TaskGroup
from coredis.exceptions import RedisError
from streaq.task import Task

from chaos.journal import note
from vibetuner.errors import VibetunerError
from vibetuner.tasks.worker import open_queue

from .tasks import mix

AnyTask = Task[Any, Any]

PASSING = (VibetunerError, RedisError, OSError, TimeoutError, anyio.ClosedResourceError)
ANSWER_SECONDS = 10
MEAN_PAUSE = 0.22

# How many of a hundred tasks are of each kind.
SHARES = {
    "quick": 46, "slow": 13, "threaded": 6, "hopeless": 6, "flaky": 8, "too_slow": 3, "sick": 1,
    "poisonous": 1, "one_at_a_time": 4, "perishable": 5, "endless": 5, "ticking": 2,
}  # fmt: skip


class Producer:
    """Draws one task after the other; what it draws depends on the seed alone."""

    def __init__(self, seed: str, aborts: TaskGroup) -> None:
        self._chance = Random(seed)  # noqa: S311 - repeatable on purpose
        self._aborts = aborts

    async def produce(self, seconds: float) -> None:
        """Enqueue for so long, whatever happens to Redis meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await self._produce_one()

    async def _produce_one(self) -> None:
        kind = self._chance.choices(list(SHARES), list(SHARES.values()))[0]
        patience, pause = self._chance.uniform(0.1, 4), self._chance.expovariate(1 / MEAN_PAUSE)
        task = self._draw(kind)
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
            # Every second one waits longer than it keeps.
            "perishable": lambda: mix.perishable.enqueue().start(delay=chance.choice([None, 4])),
        }
        draw: Callable[[], AnyTask] = draws.get(kind, getattr(mix, kind).enqueue)
        return draw()


async def _enqueue(task: AnyTask, kind: str) -> None:
    verdict = "unknown"
    with suppress(*PASSING, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
        await task
        verdict = "accepted"
    note(verdict, id=task.id, kind=kind)


async def _abort(task: AnyTask, patience: float) -> None:
    """Ask until there is an answer, as a person would."""
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
    async with anyio.create_task_group() as queue:
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
