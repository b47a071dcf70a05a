"""Tasks that follow a failed one: each ends once, whatever happens to the worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.errors import TaskError
from vibetuner.stored import read_record
from vibetuner.tasks.journal import Ended
from vibetuner.tasks.robust import GiveUp, RetryLater, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.fixture
def gate() -> asyncio.Event:
    """Return the event that the task named `gated` waits for."""
    return asyncio.Event()


@pytest.fixture
def work(worker: TaskWorker, gate: asyncio.Event) -> Any:
    """Return a task that fails if its name begins with `bad`."""
    return define(worker, gate)


def define(worker: TaskWorker, gate: asyncio.Event, **options: Any) -> Any:
    with using_worker(worker):

        @robust_task(name="work", max_retries=1, **options)
        async def work(name: str, *_: Any) -> str:
            if name.endswith("gated"):
                await gate.wait()
            if name.startswith("bad"):
                raise GiveUp(name)
            return name

    return work


async def ends(worker: TaskWorker) -> dict[str, list[Ended]]:
    """Return the journal's entries of each task."""
    found: dict[str, list[Ended]] = {}
    for entry in await worker.redis.xrange(worker.client.keys.journal.ended):
        one = read_record(Ended, entry.field_values["d"])
        found.setdefault(one.task_id, []).append(one)
    return found


@pytest.mark.parametrize("other", ["bad and gated", "good and gated"])
@pytest.mark.parametrize("ttl", [60, 0])
async def test_a_task_that_follows_two_ends_once_when_one_fails(
    worker: TaskWorker, running: Running, gate: asyncio.Event, other: str, ttl: int
):
    """A task of `after=[first, second]` ends with the first failure, and not again later."""
    work = define(worker, gate, ttl=ttl)
    async with running(worker):
        second = await work.enqueue(other)
        first = work.enqueue("bad")
        behind = await work.enqueue("behind").start(after=[second.id, first])
        await eventually(lambda: worker.counters["failed"] == 2)
        gate.set()
        await eventually(lambda: worker.counters["failed"] + worker.counters["completed"] == 3)
        last = await work.enqueue("last")

        async def is_recorded() -> bool:
            return last.id in await ends(worker)

        await eventually(is_recorded)
        found = await ends(worker)
        (end,) = found[behind.id]
        assert end.name == "work"
        assert end.error.endswith(f"It was to follow work {first.id}")
        assert {*found} == {first.id, second.id, behind.id, last.id}


async def test_a_follower_outlives_the_process_that_aborts_the_task_before_it(
    worker: TaskWorker, running: Running, work: Any
):
    """A follower of an aborted task ends in a worker, even if the aborting process is killed."""
    async with worker:
        first = await work.enqueue("first").start(delay=3600)
        behind = await work.enqueue("behind").start(after=first.id)
        last = await work.enqueue("last").start(after=behind.id)
        assert await worker.client.abort(worker, first.id, 0) == (True, True)
    async with running(worker):
        for task, blamed in [(behind, first), (last, behind)]:
            error = (await task.result(timeout=30)).exception
            assert str(error).endswith(f"It was to follow work {blamed.id}")
        await eventually(lambda: worker.counters["failed"] == 2)
        keys = worker.client.keys
        for name in (keys.data, keys.dependencies, keys.waits_for, keys.blamed):
            assert not await worker.redis.exists([name(behind.id), name(last.id)])


async def test_a_fallback_that_gets_no_arguments_names_the_task_that_failed(
    worker: TaskWorker, running: Running, work: Any
):
    """A fallback fails because of the task whose result it was to take, and names that one."""
    async with running(worker):
        first = work.enqueue("bad")
        safe = (first | work) ^ work
        last = await (safe ^ work)
        for task in (safe, last):
            result = await task.result(timeout=10)
            assert str(result.exception).endswith(f"It was to follow work {first.id}")
            assert result.tries == 0


async def test_a_fallback_of_a_follower_ends_once(worker: TaskWorker, running: Running, work: Any):
    """A fallback runs if its task fails with the one before it, and gets one end."""
    async with running(worker):
        first = await work.enqueue("bad")
        await first.result(timeout=30)
        second = await work.enqueue("gated bad").start(delay=3600)
        risky = work.enqueue("behind").start(after=second.id)
        safe = risky ^ work
        last = await safe.then(work)
        await second.abort(timeout=30)

        assert not (await risky.result(timeout=30)).success
        assert (await safe.result(timeout=30)).result == "behind"
        assert (await last.result(timeout=30)).result == "behind"
        await eventually(lambda: worker.counters["completed"] == 2)
        assert [len(one) for one in (await ends(worker)).values()] == [1] * 5


async def test_the_fallback_of_a_waiting_task_that_is_aborted_waits_for_its_arguments(
    worker: TaskWorker, running: Running, work: Any, gate: asyncio.Event
):
    """A fallback of an aborted task runs when the task before has ended, with its result."""
    async with running(worker):
        first = work.enqueue("gated")
        risky = first | work
        safe = risky ^ work
        last = await safe.then(work)
        await eventually(lambda: worker.running() == 1)
        assert await risky.abort(timeout=0)
        assert (await safe.info()).dependencies == {first.id}
        gate.set()
        assert (await safe.result(timeout=30)).result == "gated"
        assert (await last.result(timeout=30)).result == "gated"


async def test_a_fallback_that_inherits_a_failed_task_runs_and_is_retried_as_any_other(
    worker: TaskWorker, running: Running, work: Any, gate: asyncio.Event
):
    """The fallback of a task that was aborted while it waited is not to fail with what it awaits.

    It has arguments of its own, and its retries wait as long as those of any other task.
    """
    with using_worker(worker):

        @robust_task(name="mend", max_retries=2)
        async def mend(name: str) -> str:
            raise RetryLater(name, after=3600)

    async with running(worker):
        first = await work.enqueue("bad and gated")
        risky = work.enqueue("behind").start(after=first.id)
        safe = await (risky ^ mend)
        await eventually(lambda: worker.running() == 1)
        assert await risky.abort(timeout=0)
        gate.set()
        keys, redis = worker.client.keys, worker.redis
        # A retry is counted just before it is recorded.
        due = await eventually(lambda: redis.zscore(keys.delayed("normal"), safe.id))
        assert due is not None
        assert due / 1000 > time.time() + 3000
        assert worker.counters["retried"] == 1
        assert not await redis.exists([keys.blamed(safe.id), keys.aborted, keys.failing])
        assert await safe.abort(timeout=30)


async def test_what_a_skipped_fallback_takes_over_is_deleted(
    worker: TaskWorker, running: Running, work: Any
):
    """The result that a fallback takes over is deleted with the fallback's end."""
    async with running(worker):
        safe = await (work.enqueue("good") ^ work)
        assert (await safe.result(timeout=30)).result == "good"
        assert not await worker.redis.exists([worker.client.keys.fallback(safe.id)])


async def test_a_fallback_that_waits_for_another_task_does_not_run_after_a_success(
    worker: TaskWorker, running: Running, work: Any, gate: asyncio.Event
):
    """A fallback takes over the result of its task, also if it waits for one that ends later."""
    ran: list[str] = []

    @worker.task(name="mend")
    async def mend(name: str) -> None:
        ran.append(name)

    async with running(worker):
        other = await work.enqueue("gated")
        risky = work.enqueue("good")
        safe = await (risky ^ mend).start(after=other.id)
        assert (await risky.result(timeout=30)).success
        gate.set()
        assert ((await safe.result(timeout=30)).result, ran) == ("good", [])
        assert not await worker.redis.exists([worker.client.keys.fallback(safe.id)])


@pytest.mark.parametrize("end", ["abort", "failure"])
async def test_a_result_that_a_fallback_does_not_take_over_is_deleted(
    worker: TaskWorker, running: Running, work: Any, gate: asyncio.Event, end: str
):
    """A fallback that is aborted, or fails with another task, leaves no result behind."""
    async with running(worker):
        other = await work.enqueue("bad and gated")
        risky = work.enqueue("good")
        safe = await (risky ^ work).start(after=other.id)
        assert (await risky.result(timeout=30)).success
        kept = worker.client.keys.fallback(safe.id)
        await eventually(lambda: worker.redis.exists([kept]))
        if end == "abort":
            assert await safe.abort(timeout=30)
        gate.set()
        assert not (await safe.result(timeout=30)).success
        assert not await worker.redis.exists([kept])


async def test_a_fallback_that_was_aborted_gets_no_second_end(
    worker: TaskWorker, running: Running, gate: asyncio.Event
):
    """An aborted fallback stays aborted when its task fails, even if no result of it is kept."""
    work = define(worker, gate, ttl=0)
    async with running(worker):
        risky = work.enqueue("bad and gated")
        safe = await (risky ^ work)
        await eventually(lambda: worker.running() == 1)
        assert await safe.abort(timeout=30)
        gate.set()
        await eventually(lambda: worker.counters["failed"] == 1)
        last = await work.enqueue("last")

        async def is_recorded() -> bool:
            return last.id in await ends(worker)

        await eventually(is_recorded)
        assert await worker.redis.xlen(worker.client.keys.stream("normal")) == 0
        assert [one.outcome for one in (await ends(worker))[safe.id]] == ["aborted"]


@pytest.mark.parametrize("is_durable", [(True, False), (False, True)])
async def test_calls_of_one_enqueue_many_follow_each_other_in_any_order(
    worker: TaskWorker, running: Running, work: Any, is_durable: tuple[bool, bool]
):
    """Calls may follow others of one enqueue_many(), whatever their durability and parts are."""
    odd, even = is_durable
    first = work.enqueue("first").start(durable=odd)
    second = work.enqueue("second").start(after=first.id, durable=even)
    third = work.enqueue("third").start(after=[second.id, work.enqueue("part")], durable=odd)
    fourth = work.enqueue("fourth").start(after=third.id, durable=even)
    async with running(worker):
        await worker.enqueue_many([fourth, third, second, first])
        assert (await fourth.result(timeout=30)).result == "fourth"


async def test_calls_that_wait_for_each_other_are_refused(worker: TaskWorker, work: Any):
    """Calls of one enqueue_many() that wait for each other would never start."""
    first, second, other = work.enqueue("a"), work.enqueue("b"), work.enqueue("c")
    first.start(after=second.id)
    second.start(after=first.id)
    async with worker:
        with pytest.raises(TaskError, match=r"^work: calls of one enqueue_many\(\) wait for each"):
            await worker.enqueue_many([other, first, second])
        assert not await worker.redis.exists([worker.client.keys.data(other.id)])
