"""Calls that wait for others, which may fail, or which are enqueued with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
from streaq import StreaqError, TaskStatus

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.errors import TaskError, TaskExists, TaskNotFound
from vibetuner.tasks.attempt import Cause
from vibetuner.tasks.call import TaskCall
from vibetuner.tasks.client.queue import ENQUEUED_AT_ONCE
from vibetuner.tasks.dead_letters import get as get_letter
from vibetuner.tasks.progress.state import ProgressStatus
from vibetuner.tasks.progress.watch import load_progress, watch_progress
from vibetuner.tasks.robust import GiveUp, robust_task
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import TaskWorker, using_worker

Running = Callable[[TaskWorker], AbstractAsyncContextManager[TaskWorker]]


@pytest.fixture
async def worker(stand_in, settings: Settings) -> AsyncIterator[TaskWorker]:
    """Yield a worker that is not running yet."""
    stand_in()
    with using_worker(TaskWorker(settings)) as worker:
        yield worker


async def test_a_task_starts_once_all_before_it_have_ended_though_some_have_failed(
    worker: TaskWorker, running: Running
):
    """A task with `regardless=True` starts after tasks that failed or were aborted.

    A task without it fails.
    """
    order: list[str] = []

    @robust_task(name="part")
    async def part(name: str) -> None:
        order.append(name)
        if name == "fails":
            raise GiveUp(name)

    @robust_task(name="end")
    async def end(name: str) -> str:
        order.append(name)
        return "all have ended"

    async with worker:
        done, fails, aborted = [part.enqueue(name) for name in ("done", "fails", "aborted")]
        behind = part.enqueue("behind").start(after=fails.id)
        parts = [done, fails, aborted, behind]
        last = end.enqueue("last").start(after=[one.id for one in parts], regardless=True)
        strict = end.enqueue("strict").start(after=[one.id for one in parts])
        await worker.enqueue_many([*parts, last, strict])
        await aborted.abort(timeout=0)
    async with running(worker):
        assert (await last.result(timeout=30)).result == "all have ended"
        refused = await strict.result(timeout=30)

        late = await end.enqueue("late").start(after=done.id, regardless=True)
        assert (await late.result(timeout=30)).success

    assert not refused.success
    assert sorted(order[:2]) == ["done", "fails"]
    assert order[2:] == ["last", "late"]


WAYS: dict[str, Callable[[TaskCall[[str], str], str], TaskCall[[str], str]]] = {
    "alone": lambda call, first: call.start(after=first),
    "durable": lambda call, first: call.start(after=first, durable=True),
    "keyed": lambda call, first: call.start(after=first).once("key"),
    "a batch": lambda call, first: call.start(after=[call.parent.enqueue("part"), first]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("regardless", [False, True])
async def test_a_task_that_nobody_knows_is_not_waited_for(
    worker: TaskWorker, running: Running, way: str, regardless: bool
):
    """`after=` an id that neither waits nor runs, and whose result is gone, enqueues nothing."""

    @robust_task(name="work", ttl=timedelta(0))
    async def work(name: str) -> str:
        return name

    async with running(worker):
        ended = await work.enqueue("first")

        async def is_forgotten() -> bool:
            return await ended.status() is TaskStatus.NOT_FOUND

        await eventually(is_forgotten)
        for first in (ended.id, "never-enqueued"):
            call = WAYS[way](work.enqueue("behind"), first)
            call.after = [f"~{one}" if regardless else one for one in call.after]
            with pytest.raises(TaskNotFound, match=f"not enqueued: it is to follow {first}, which"):
                await call
            assert await call.status() is TaskStatus.NOT_FOUND
            with pytest.raises(TaskNotFound):
                await worker.enqueue_many([work.enqueue("alone").start(after=first)])
        pair = [work.enqueue("a"), work.enqueue("b")]
        pair[0].start(after=pair[1].id)  # in one step, in any order
        await worker.enqueue_many(pair)
        await eventually(lambda: worker.counters["completed"] == 3)


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "a taken id": lambda work, _: called(work.enqueue(1), "taken"),
    "a task that is gone": lambda work, _: work.enqueue(1).start(after="nobody"),
    "another refused one": lambda work, _: work.enqueue(1).start(after="refused"),
    "an argument that can't be stored": lambda work, _: work.enqueue(lambda: 0),
    "an argument that can't be compared": lambda _, unique: unique.enqueue(object()),
    "a key of another call": lambda work, _: work.enqueue(1).once("taken"),
}


def called(call: Any, name: str) -> Any:
    """Give a call an id."""
    call.id = name
    return call


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_call_that_cannot_be_enqueued_blocks_no_other(worker: TaskWorker, kind: str):
    """enqueue_many() raises the error of a call after it has enqueued all other calls."""
    heard: list[str] = []
    with using_worker(worker):

        @robust_task(name="work")
        async def work(number: int) -> None: ...

        @robust_task(name="unique", unique=Unique(by=("number",)))
        async def unique(number: int) -> None: ...

    async with worker:
        await called(work.enqueue(2), "taken")
        await work.enqueue(2).once("taken")
        calls = [
            work.enqueue(3),
            unique.enqueue(4),
            work.enqueue(5).once("another"),
            work.enqueue(6).start(after=work.enqueue(7)),
            work.enqueue(8).start(after="taken"),
        ]
        refused = [REFUSED[kind](work, unique)]
        if kind == "another refused one":
            refused.append(called(work.enqueue(lambda: 0), "refused"))
        worker.on_enqueue = lambda call: heard.append(call.id)
        with pytest.raises((TaskError, StreaqError)):
            await worker.enqueue_many([*refused, *calls])
        found = [await call.status() for call in calls]
        assert TaskStatus.NOT_FOUND not in found
        assert {call.id for call in calls} <= {*heard}
        assert not {call.id for call in refused} & {*heard}


async def test_the_tasks_of_enqueue_many_follow_each_other_in_any_order(
    worker: TaskWorker, running: Running
):
    """The first of more tasks than go into one step may follow the last of them."""

    @robust_task(name="work")
    async def work(number: int) -> int:
        return number

    tasks = [work.enqueue(number) for number in range(ENQUEUED_AT_ONCE + 1)]
    tasks[0].start(after=tasks[-1].id)
    async with running(worker):
        await worker.enqueue_many(tasks)
        await eventually(lambda: worker.counters["completed"] == len(tasks))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["fails", "is aborted"])
async def test_a_task_fails_whether_the_other_fails_before_or_after_its_enqueue(
    worker: TaskWorker, running: Running, way: str, end: str
):
    """A task fails with a task of `after=` that failed or was aborted before, as with a later one.

    Result, dead letter and dependents are the same.
    """
    ran: list[str] = []
    told: list[str] = []

    @robust_task(name="work", on_failure=lambda name, task_id, error: told.append(task_id))
    async def work(name: str) -> str:
        ran.append(name)
        if name == "first":
            raise GiveUp(name)
        return name

    async def first() -> TaskCall[[str], str]:
        delay = 3600 if end == "is aborted" else None
        return await work.enqueue("first").start(delay=delay)

    def behind(other: str) -> TaskCall[[str], str]:
        return WAYS[way](work.enqueue("behind"), other)

    async def ended(call: TaskCall[[str], str], first_id: str) -> tuple[object, ...]:
        result = await call.result(timeout=30)
        last = await (await work.enqueue("last").start(after=call.id)).result(timeout=30)
        letter = await get_letter(call.id)
        blamed = f"Dependency failed, not running task! It was to follow work {first_id}"
        assert letter.error == str(result.exception) == blamed
        assert str(last.exception).endswith(f"It was to follow work {call.id}")
        return (
            *(result.success, result.tries),
            *(letter.cause, letter.tries, letter.args, told.count(call.id)),
        )

    async with running(worker):
        failed = await first()
        if end == "is aborted":
            await failed.abort(timeout=30)
        await failed.result(timeout=30)
        after_the_failure = await ended(await behind(failed.id), failed.id)
        await worker.redis.delete(
            [key async for key in worker.redis.scan_iter("*:once:*", count=10_000)] or ["-"]
        )

    async with worker:
        other = await first()
        call = await behind(other.id)
        if end == "is aborted":
            await other.abort(timeout=0)
    async with running(worker):
        before_the_failure = await ended(call, other.id)

    assert "behind" not in ran
    assert "last" not in ran
    assert after_the_failure == before_the_failure
    assert after_the_failure[2] is Cause.FAILED_DEPENDENCY


async def test_an_earlier_failure_counts_among_many_and_not_regardless_of_it(
    worker: TaskWorker, running: Running
):
    """A failure fails the task after it in enqueue_many(), and none with `regardless=True`.

    Nothing of it is left.
    """

    @worker.task(name="work", ttl=60)
    async def work(name: str) -> str:
        if name == "first":
            raise ValueError(name)
        return name

    async with running(worker):
        first, done = await work.enqueue("first"), await work.enqueue("done")
        await asyncio.gather(first.result(timeout=30), done.result(timeout=30))
        both = [first.id, done.id]
        strict = work.enqueue("strict").start(after=both)
        lenient = work.enqueue("lenient").start(after=both, regardless=True)
        pleased = work.enqueue("pleased").start(after=done.id)
        await worker.enqueue_many([strict, lenient, pleased])
        ends = [await one.result(timeout=30) for one in (strict, lenient, pleased)]
        keys = worker.client.keys
        marks = await worker.redis.sunion([keys.aborted, keys.failing])
        assert not await worker.redis.exists([keys.blamed(strict.id)])
        lifetime = await worker.redis.pttl(worker.client.keys.failed(first.id))

    assert [end.success for end in ends] == [False, True, True]
    assert str(ends[0].exception).endswith(f"not running task! It was to follow work {first.id}")
    assert marks == set()
    assert 0 < lifetime <= 60_000


async def test_the_progress_of_a_task_that_waits_counts_those_that_have_ended(
    worker: TaskWorker, running: Running
):
    """A watcher of a waiting task sees how many of its parts have ended, and of how many."""
    may_end = asyncio.Event()

    @robust_task(name="part")
    async def part(number: int) -> None:
        if number == 2:
            await may_end.wait()
        if number == 1:
            raise GiveUp("of no account")

    @robust_task(name="end")
    async def end() -> None: ...

    seen: list[tuple[str, int, int | None]] = []

    async def watch(task_id: str) -> None:
        async for state in watch_progress(task_id):
            seen.append((state.status, state.done, state.total))

    async with running(worker):
        parts = [part.enqueue(number) for number in range(3)]
        last = end.enqueue().start(after=[one.id for one in parts], regardless=True)
        await worker.enqueue_many([*parts, last])
        watching = asyncio.create_task(watch(last.id))
        await eventually(lambda: (ProgressStatus.QUEUED, 2, 3) in seen)
        may_end.set()
        await asyncio.wait_for(watching, 10)
        state = await load_progress(last.id)

    assert seen[-1] == (ProgressStatus.COMPLETE, 3, 3)
    assert [total for _, _, total in seen] == [3] * len(seen)
    assert state is not None
    assert (state.status, state.done, state.total) == (ProgressStatus.COMPLETE, 3, 3)


async def test_invalid_arguments_of_start_are_refused_at_once(worker: TaskWorker):
    """start() refuses `regardless=True` without `after=`, more than 5,000 ids, and other values."""

    @robust_task(name="end")
    async def end() -> None: ...

    with pytest.raises(TaskError, match="regardless=True is for a task that waits for others"):
        end.enqueue().start(regardless=True)
    with pytest.raises(TaskError, match="takes up to 5,000 ids or calls as after=, not 5,001"):
        end.enqueue().start(after=map(str, range(5001)))
    with pytest.raises(TaskError, match="takes ids and calls of tasks as after=, not 7"):
        end.enqueue().start(after=[7])  # type: ignore[list-item]


async def test_a_call_is_enqueued_with_those_that_it_waits_for(
    worker: TaskWorker, running: Running
):
    """A call is enqueued in one step with all that it waits for, directly or through others.

    Calls that were enqueued before, or none, may be among these.
    """
    order: list[str] = []

    @robust_task(name="work")
    async def work(name: str) -> None:
        order.append(name)

    async with worker:
        before = await work.enqueue("before")
        other = await work.enqueue("other")
        portion = work.enqueue("portion").start(after=[work.enqueue("a"), work.enqueue("b")])
        end = work.enqueue("end").start(after=[portion, before, other.id, work.enqueue("c")])
        steps = await fcalls(worker)
        await end
        assert await fcalls(worker) - steps == 1
        last = await work.enqueue("last").start(after=end)
        empty = await work.enqueue("empty").start(after=[], regardless=True)
    async with running(worker):
        await asyncio.gather(last.result(timeout=30), empty.result(timeout=30))

    assert sorted(order[:-3]) == ["a", "b", "before", "c", "empty", "other"]
    assert order[-3:] == ["portion", "end", "last"]


async def test_none_is_enqueued_if_the_one_that_waits_cannot_be(worker: TaskWorker):
    """A batch whose id or key is taken enqueues none of its calls."""

    @robust_task(name="work")
    async def work(name: str) -> None: ...

    def batch() -> TaskCall[[str], None]:
        return work.enqueue("end").start(after=[work.enqueue("a"), work.enqueue("b")])

    async with worker:
        first = await batch().once("night")
        assert (await batch().once("night")).id == first.id
        assert await queued(worker) == 3

        again = batch()
        again.id = first.id
        with pytest.raises(TaskExists, match=f"work {first.id} waits or runs already"):
            await again
        with pytest.raises(TaskExists):
            await worker.enqueue_many([again])
        assert await queued(worker) == 3


async def test_a_batch_among_many_calls_is_enqueued_once(worker: TaskWorker):
    """enqueue_many() enqueues a batch once, even if its parts are passed a second time."""

    @robust_task(name="work")
    async def work(name: str) -> None: ...

    async with worker:
        parts = [work.enqueue(str(number)) for number in range(3)]
        end = work.enqueue("end").start(after=parts, regardless=True)
        keyed = work.enqueue("keyed").start(after=work.enqueue("its own")).once("key")
        await worker.enqueue_many([*parts, end, work.enqueue("alone"), keyed])
        assert await queued(worker) == 7
        state = await load_progress(end.id)

    assert state is not None
    assert (state.done, state.total) == (0, 3)


async def test_a_batch_of_any_allowed_size_is_one_step(worker: TaskWorker):
    """A batch of 5,000 parts is enqueued, with and without a key, and a larger one is refused."""

    @robust_task(name="work")
    async def work(number: int) -> None: ...

    def portion(size: int) -> TaskCall[[int], None]:
        return work.enqueue(-1).start(after=[work.enqueue(number) for number in range(size)])

    async with worker:
        await portion(5000)
        await portion(5000).once("key")
        assert await queued(worker) == 10_002
        with pytest.raises(TaskError, match="enqueued with up to 5,000 others, not 5,001"):
            await work.enqueue(-2).start(after=[portion(2500), portion(2499)])
        assert await queued(worker) == 10_002


async def test_calls_that_cannot_be_enqueued_with_another_are_refused(worker: TaskWorker):
    """A part with a key, a chain or a schedule, or a unique one, raises TaskError.

    Nothing is sent.
    """

    @robust_task(name="work")
    async def work(name: str) -> None: ...

    @robust_task(name="alone", unique=Unique(by=("name",)))
    async def alone(name: str) -> None: ...

    first = work.enqueue("first")
    first.then(work)
    refused = {
        "has once": work.enqueue("a").once("key"),
        "is part of a chain": first,
        "is repeated": work.enqueue("a").start(schedule="* * * * *"),
        "alone is unique": alone.enqueue("a"),
    }
    async with worker:
        for reason, part in refused.items():
            end = work.enqueue("end").start(after=[work.enqueue("b"), part])
            with pytest.raises(TaskError, match=reason):
                await end
            with pytest.raises(TaskError, match=reason):
                await worker.enqueue_many([end])
        with pytest.raises(TaskError, match="can't be part of a chain"):
            await work.enqueue("end").start(after=work.enqueue("b")).then(work)
        assert await queued(worker) == 0


async def queued(worker: TaskWorker) -> int:
    """Return how many tasks are stored, those that wait for others included."""
    pattern = f"{worker.client.keys.queue}:task:data:*"
    return len([key async for key in worker.redis.scan_iter(pattern, count=10_000)])


async def fcalls(worker: TaskWorker) -> int:
    """Return how often the server has run one of our functions."""
    stats = await worker.redis.info("commandstats")
    return int(stats["cmdstat_fcall"]["calls"])
