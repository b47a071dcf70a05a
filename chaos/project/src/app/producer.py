"""Enqueues tasks at random until its time is over: ``python -m app.producer <seed> <seconds>``.

A task is *accepted* once ``enqueue`` has returned; that is noted before anything else is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext, suppress
from random import Random
from secrets import token_hex
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from coredis.exceptions import RedisError
from pymongo.errors import PyMongoError
from sqlalchemy.exc import SQLAlchemyError
from streaq.task import Task

from chaos.journal import QUEUES, note
from chaos.outbox import transaction
from vibetuner.config import get_settings
from vibetuner.errors import VibetunerError
from vibetuner.resources.mongo import open_database
from vibetuner.resources.sql import open_sql
from vibetuner.tasks import dead_letters
from vibetuner.tasks.call import TaskCall
from vibetuner.tasks.worker import get_worker, open_queue

from .tasks import mix

AnyTask = Task[Any, Any]

PASSING = (VibetunerError, RedisError, OSError, TimeoutError, anyio.ClosedResourceError)
PASSING_OF_DATABASES = (*PASSING, SQLAlchemyError, PyMongoError, ExceptionGroup)
# Whether the outbox is in MongoDB.
IN_MONGODB = not get_settings().database_url
ANSWER_SECONDS = 10
MEAN_PAUSE = 0.22

# The calls with one key, on average, and the transactions of which one is rolled back.
SAME_KEY, ROLLED_BACK = 3, 4

# How many of a hundred tasks are of each kind.
SHARES = {
    "quick": 20, "committed": 8, "keyed": 8, "slow": 10, "threaded": 4, "hopeless": 4, "flaky": 6,
    "too_slow": 3, "sick": 1, "poisonous": 1, "one_at_a_time": 4, "perishable": 4, "endless": 4,
    "ticking": 2, "chain": 6, "fallback": 4, "batch": 8, "clashing": 3, "skipping": 5,
    "waiting": 7, "replacing": 7, "many": 4, "telling": 4,
}  # fmt: skip
UNIQUE = {"clashing", "skipping", "waiting", "replacing"}
ACCOUNTS = "ABC"

# How many of a hundred steps meet each fate; and of a hundred tasks, how many are aborted.
FATES = {"done": 45, "flaky": 12, "later": 12, "fail": 10, "give up": 6, "long": 15}
ABORTED = 15


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
        elif kind == "many":
            await self._enqueue_many(cast("TaskCall[Any, Any]", task))
        elif kind == "batch":
            await self._enqueue_batch(cast("TaskCall[Any, Any]", task))
        else:
            await _enqueue(task, kind)
        if kind == "endless" or self._chance.randrange(100) < ABORTED:
            self._aborts.start_soon(_abort, self._chance.choice(_chain_of(task)), patience)
        await anyio.sleep(pause)

    def _draw(self, kind: str) -> AnyTask:
        chance = self._chance
        draws: dict[str, Callable[[], AnyTask]] = {
            "quick": lambda: mix.quick.enqueue().start(durable=chance.choice([None, None, True])),
            "many": self._draw_step,
            "telling": lambda: mix.telling.enqueue(chance.randint(1, 20)),
            "slow": lambda: mix.slow.enqueue(round(chance.uniform(2, 6), 1)),
            "threaded": lambda: mix.threaded.enqueue(round(chance.uniform(0.1, 2.5), 1)),
            "hopeless": lambda: mix.hopeless.enqueue("there is no hope"),
            "flaky": lambda: mix.flaky.enqueue(chance.randint(2, 3)),
            "sick": lambda: mix.sick.enqueue(chance.randint(2, 3)),
            "one_at_a_time": lambda: mix.one_at_a_time.enqueue(round(chance.uniform(0.2, 1.5), 1)),
            "committed": lambda: mix.committed.enqueue(token_hex(8)),
            "keyed": self._draw_keyed,
            "chain": self._draw_chain,
            "fallback": lambda: self._draw_step() ^ mix.step,
            "batch": self._draw_step,
            # Every second one is delayed beyond its expiry.
            "perishable": lambda: mix.perishable.enqueue().start(delay=chance.choice([None, 4])),
        }
        if kind in UNIQUE:
            account, fate = chance.choice(ACCOUNTS), self._draw_fate()
            delay = chance.choice([None, None, 1, 3])
            queue = chance.choice(QUEUES)
            task: AnyTask = getattr(mix, kind).enqueue(account, fate=fate)
            return task.start(delay=delay, priority=queue)
        draw: Callable[[], AnyTask] = draws[kind] if kind in draws else getattr(mix, kind).enqueue
        return draw()

    def _draw_fate(self) -> str:
        return self._chance.choices(list(FATES), list(FATES.values()))[0]

    def _draw_step(self) -> TaskCall[Any, Any]:
        delay, queue = self._chance.choice([None, None, None, 2]), self._chance.choice(QUEUES)
        step: TaskCall[Any, Any] = mix.step.enqueue(fate=self._draw_fate())
        return step.start(delay=delay, priority=queue)

    def _draw_chain(self) -> AnyTask:
        chain: Any = self._draw_step()
        for _ in range(self._chance.randint(1, 3)):
            chain = chain.then(mix.step, fate=self._draw_fate())
        return cast("AnyTask", chain)

    async def _enqueue_batch(self, last: TaskCall[Any, Any]) -> None:
        """Enqueue some steps and one that waits for them: by itself, under a key or in a commit."""
        chance = self._chance
        parts = [self._draw_step() for _ in range(chance.randint(1, 5))]
        is_strict = bool(chance.randrange(2))
        last.delay = None
        last.start(after=parts, regardless=not is_strict, priority=chance.choice(QUEUES))
        facts: dict[str, Any] = {"after": [part.id for part in parts], "strict": is_strict}
        verdict, way = "unknown", chance.choice(["plain", "keyed", "committed"])
        known = last.id
        with suppress(*PASSING_OF_DATABASES), anyio.fail_after(ANSWER_SECONDS):
            if way == "plain":
                await last
            elif way == "keyed":
                last = await last.once(f"batch-{known}")
            else:
                async with transaction(None, in_mongodb=IN_MONGODB) as (session, commit):
                    await last.within(session)
                    await commit()
            verdict = "accepted"
        for part in parts:
            note(verdict, id=part.id, kind="part")
        note(verdict, id=known, kind="batch", **facts)

    async def _enqueue_many(self, first: TaskCall[Any, Any]) -> None:
        """Enqueue a step and others that follow it or stand alone, all with one call."""
        others = [self._draw_step() for _ in range(self._chance.randint(1, 5))]
        follows = [bool(self._chance.randrange(2)) for _ in others]
        for one, is_behind in zip(others, follows, strict=True):
            one.delay = None
            one.start(after=first.id if is_behind else [])
        verdict = "unknown"
        with suppress(*PASSING, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
            await get_worker().enqueue_many([first, *others])
            verdict = "accepted"
        for one in (first, *others):
            note(verdict, id=one.id, kind="many", after=one.after, strict=True)

    def _draw_keyed(self) -> AnyTask:
        self._keys += 1
        # One of the last keys, so that their calls meet what has happened to the first one.
        event = f"evt-{max(0, self._keys // SAME_KEY - self._chance.randrange(3))}"
        return mix.keyed.enqueue(event)


async def _commit(task: AnyTask, *, is_kept: bool) -> None:
    """Store an order and its task in one transaction, which may be rolled back."""
    verdict = "unknown"
    with suppress(*PASSING_OF_DATABASES), anyio.fail_after(ANSWER_SECONDS):
        async with transaction(task.args[0], in_mongodb=IN_MONGODB) as (session, commit):
            await cast("TaskCall[Any, Any]", task).within(session)
            if is_kept:
                await commit()
        verdict = "accepted" if is_kept else "withdrawn"
    note(verdict, id=task.id, kind="committed")


async def _enqueue_keyed(task: AnyTask) -> None:
    verdict, key = "unknown", str(task.args[0])
    call = cast("TaskCall[Any, Any]", task).once(key)
    with suppress(*PASSING, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
        await call
        verdict = "accepted"
    task.id = call.id
    note(verdict, id=call.id, kind="keyed", key=key)


async def _enqueue(task: AnyTask, kind: str) -> None:
    verdict = "unknown"
    with suppress(*PASSING, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
        await task
        verdict = "accepted"
    before: list[str] = []
    durable = bool(getattr(task, "durable", None))
    for one in _chain_of(task):
        note(
            verdict, id=one.id, kind=kind, after=before, strict=kind != "fallback", durable=durable
        )
        before = [one.id]


def _chain_of(task: AnyTask) -> list[AnyTask]:
    """Return the tasks of a chain, the first one first."""
    chain = [task]
    while (first := chain[0]._after) is not None:  # noqa: SLF001 - streaq's own name
        chain.insert(0, first)
    return chain


async def _settle_letters(chance: Random) -> None:
    """Retry or discard a dead letter now and then, as a person would."""
    while True:
        await anyio.sleep(chance.uniform(1, 4))
        new_id = ""
        with suppress(*PASSING, PyMongoError, ExceptionGroup), anyio.fail_after(ANSWER_SECONDS):
            async with nullcontext() if IN_MONGODB else open_database(get_settings()):
                letters = (await dead_letters.list_letters(limit=20)).letters
                letter = chance.choice(letters) if letters else None
                if letter and chance.randrange(4):
                    new_id = await dead_letters.retry(letter)
                elif letter:
                    await dead_letters.discard(letter)
        if new_id and letter:
            note("accepted", id=new_id, kind="retried letter")


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
    async with AsyncExitStack() as stack:
        await _open_database(stack)
        queue = await stack.enter_async_context(anyio.create_task_group())
        queue.start_soon(_hold_queue_open)
        queue.start_soon(_settle_letters, Random(f"{seed} letters"))  # noqa: S311 - as above
        async with anyio.create_task_group() as aborts:
            await Producer(seed, aborts).produce(seconds)
        queue.cancel_scope.cancel()


async def _open_database(stack: AsyncExitStack) -> None:
    """Open the database of the outbox, which may have a fault just now."""
    open_it = open_database if IN_MONGODB else open_sql
    while True:
        with suppress(*PASSING_OF_DATABASES):
            await stack.enter_async_context(open_it(get_settings()))
            return
        await anyio.sleep(0.2)


async def _hold_queue_open() -> None:
    while True:
        with suppress(*PASSING, ExceptionGroup):
            async with open_queue():
                await anyio.sleep_forever()
        await anyio.sleep(0.2)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], float(sys.argv[2]))
