"""The order of tasks: priorities, delays, schedules, chains and fallbacks."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from streaq import StreaqError, TaskStatus, Worker

from tests.waiting import eventually
from vibetuner.tasks.worker import TaskWorker

from .conftest import Make, at_work, drain, soon

EVERY_SECOND = "* * * * * * *"


async def test_higher_priorities_come_first(make: Make):
    """Priorities are named from low to high, and a call without one has the lowest."""
    worker = make(concurrency=1, priorities=["low", "high"])
    begun: list[str] = []

    @worker.task(name="note")
    async def note(name: str) -> None:
        begun.append(name)

    async with worker:
        await note.enqueue("default")
        await note.enqueue("low").start(priority="low")
        await note.enqueue("high").start(priority="high")
    await drain(worker)

    assert begun == ["high", "default", "low"]


async def test_no_more_run_at_a_time_than_concurrency(make: Make):
    """A worker runs as many tasks at a time as its concurrency, and no more."""
    worker = make(concurrency=3)
    now: list[int] = []
    most: list[int] = []
    full = asyncio.Event()

    @worker.task(name="count")
    async def count() -> None:
        now.append(1)
        most.append(len(now))
        if len(now) == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0.02)
        now.pop()

    async with worker:
        await worker.enqueue_many([count.enqueue() for _ in range(20)])
    await drain(worker)

    assert max(most) == 3
    assert worker.counters["completed"] == 20


async def test_a_delayed_task_is_not_early(worker: Worker[Any]):
    """A task with a delay or a schedule does not start early, and its status is SCHEDULED."""

    @worker.task(name="now")
    async def now() -> float:
        return time.time()

    async with at_work(worker):
        began = time.time()
        delayed = await now.enqueue().start(delay=soon(0.3))
        planned = await now.enqueue().start(schedule=datetime.now(UTC) + soon(0.4))
        far = await now.enqueue().start(delay=3600)

        assert (await delayed.result(timeout=30)).result - began >= 0.299
        assert (await planned.result(timeout=30)).result - began >= 0.399
        assert await far.status() == TaskStatus.SCHEDULED


async def test_a_task_can_wait_for_others(worker: Worker[Any]):
    """A task with ``after`` starts when those tasks have ended, which some may have done before."""
    done: list[str] = []

    @worker.task(name="step")
    async def step(name: str) -> None:
        done.append(name)

    async with at_work(worker):
        earlier = await step.enqueue("earlier")
        await earlier.result(timeout=30)
        first = await step.enqueue("first").start(delay=3)
        last = await step.enqueue("last").start(after=[first.id, earlier.id])
        assert await last.status() == TaskStatus.SCHEDULED
        await last.result(timeout=30)

    assert done == ["earlier", "first", "last"]


async def test_a_chain_hands_results_on(worker: Worker[Any]):
    """Each task of a chain gets the result before it; a tuple becomes several arguments."""

    @worker.task(name="pair")
    async def pair(number: int) -> tuple[int, int]:
        return number, number + 1

    @worker.task(name="add")
    async def add(left: int, right: int, *, more: int = 0) -> int:
        return left + right + more

    @worker.task(name="show")
    async def show(number: int) -> str:
        return f"<{number}>"

    async with at_work(worker):
        task = await (pair.enqueue(3).then(add, more=10) | show)
        assert (await task.result(timeout=30)).result == "<17>"


async def test_a_dependent_of_a_failure_fails(worker: Worker[Any]):
    """A task after a failed one fails without a run, and so does the task after that."""

    @worker.task(name="fail")
    async def fail() -> int:
        raise ValueError("no")

    @worker.task(name="next")
    async def next_(number: int) -> int:
        return number

    async with at_work(worker):
        second = fail.enqueue() | next_
        third = await (second | next_)
        for task in (second, third):
            result = await task.result(timeout=30)
            assert str(result.exception).startswith("Dependency failed, not running task!")
            assert isinstance(result.exception, StreaqError)


async def test_a_fallback_runs_when_a_task_fails(worker: Worker[Any]):
    """A fallback runs with the same arguments if its task fails.

    Otherwise it is skipped, and has the task's result.
    """
    ran: list[int] = []

    @worker.task(name="risky")
    async def risky(number: int) -> str:
        if number < 0:
            raise ValueError("below zero")
        return f"risky {number}"

    @worker.task(name="safe")
    async def safe(number: int) -> str:
        ran.append(number)
        return f"safe {number}"

    async with at_work(worker):
        needed = await (risky.enqueue(-1) ^ safe)
        skipped = await (risky.enqueue(1) ^ safe)

        assert (await needed.result(timeout=30)).result == "safe -1"
        assert (await skipped.result(timeout=30)).result == "risky 1"
    assert ran == [-1]


async def test_a_follower_of_a_fallback_gets_the_result_of_the_one_that_ran(worker: Worker[Any]):
    """A task after a fallback gets the result of the first task or of the fallback.

    With streaq's worker, it may also fail after the fallback.
    """

    @worker.task(name="risky")
    async def risky(number: int) -> int:
        if number < 0:
            raise ValueError("below zero")
        return number

    @worker.task(name="safe")
    async def safe(number: int) -> int:
        return -number

    @worker.task(name="last")
    async def last(number: int) -> str:
        return f"last {number}"

    async with at_work(worker):
        ends = [await ((risky.enqueue(n) ^ safe) | last) for n in (5, -7)]
        results = [await end.result(timeout=30) for end in ends]

    assert results[0].result == "last 5"
    # streaq looks for the first task's result, and there is none if the fallback ran.
    if isinstance(worker, TaskWorker) or results[1].success:
        assert results[1].result == "last 7"


async def test_a_cron_task_runs_by_itself(worker: Worker[Any]):
    """A cron task runs on its schedule, each time under another id."""
    ran: list[str] = []

    @worker.cron("* * * * *", name="tick")
    async def tick() -> None:
        ran.append(tick.context.task_id)

    # Only streaq itself accepts a schedule with seconds.
    tick.crontab = EVERY_SECOND
    async with at_work(worker):
        await eventually(lambda: len(ran) >= 2)

    assert len(set(ran)) == len(ran)


async def test_a_repeated_task_can_be_unscheduled(worker: Worker[Any]):
    """A crontab as ``schedule`` repeats a task, and its id removes the schedule."""
    ran: list[str] = []

    @worker.task(name="tock")
    async def tock() -> None:
        ran.append(tock.context.task_id)

    async with at_work(worker):
        task = tock.enqueue().start(schedule="* * * * *")
        await worker.enqueue_many([task])
        await worker.redis.hset(worker.cron_registry_key, {task.id: EVERY_SECOND})
        await worker.redis.zadd(worker.cron_schedule_key, {task.id: time.time() * 1000})
        await eventually(lambda: len(ran) >= 2)
        assert await task.unschedule() is True


async def test_a_cron_task_that_comes_too_late_is_dropped(worker: Worker[Any]):
    """A cron run that is later than ``max_schedule_drift`` fails without being called."""

    @worker.cron("0 0 1 1 *", name="yearly", max_schedule_drift=5)
    async def yearly() -> None:
        raise AssertionError("too late")

    async with worker:
        task = await yearly.enqueue()
        stream = worker.stream_key + worker.priorities[-1]
        ((entry, _),) = [(e.identifier, e) for e in await worker.redis.xrange(stream)]
        await worker.redis.xdel(stream, [entry])
        late = int(time.time() * 1000) - 60_000
        await worker.redis.xadd(stream, {"task_id": task.id, "enqueue_time": late})
    await drain(worker)
    async with worker:
        result = await task.result(timeout=30)
        assert str(result.exception) == "Cron task exceeded max schedule drift!"


async def test_info_has_the_arguments_of_a_waiting_task(worker: Worker[Any]):
    """info() has the task's name, arguments, time, tries, dependents and dependencies."""

    @worker.task(name="noop")
    async def noop(*args: int, **kwargs: int) -> None: ...

    async with worker:
        task = await noop.enqueue(1, two=2).start(delay=100)
        after = await noop.enqueue().start(after=task.id)
        info, later = await task.info(), await after.info()
        assert info is not None
        assert later is not None
        assert (info.fn_name, info.args, info.kwargs, info.tries) == ("noop", (1,), {"two": 2}, 0)
        assert info.status == TaskStatus.SCHEDULED
        assert info.scheduled is not None
        assert 90 < (info.scheduled - datetime.now(UTC)).total_seconds() <= 100
        assert info.dependents == {after.id}
        assert later.dependencies == {task.id}
        assert await worker.queue_size() == 1
        waiting = await worker.get_tasks_by_status(TaskStatus.SCHEDULED)
        assert [found.task_id for found in waiting] == [task.id]


async def test_a_chain_may_begin_with_a_name(make: Make):
    """A call by ``enqueue_unsafe()`` can be the first of a chain."""
    worker = make()

    @worker.task(name="double")
    async def double(value: int) -> int:
        return 2 * value

    async with worker:
        chain = await worker.enqueue_unsafe("double", 3).then(double)
    await drain(worker)

    async with worker:
        assert (await chain.result(timeout=30)).result == 12
