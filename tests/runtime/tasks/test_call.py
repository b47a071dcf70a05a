"""Calls that wait for others, and start whether these succeed or fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.errors import TaskError
from vibetuner.tasks.progress.state import ProgressStatus
from vibetuner.tasks.progress.watch import load_progress, watch_progress
from vibetuner.tasks.robust import GiveUp, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

Running = Callable[[TaskWorker], AbstractAsyncContextManager[TaskWorker]]


@pytest.fixture
async def worker(stand_in, settings: Settings) -> AsyncIterator[TaskWorker]:
    """A worker of the test's own, not running yet."""
    stand_in()
    with using_worker(TaskWorker(settings)) as worker:
        yield worker


async def test_a_task_starts_once_all_before_it_have_ended_though_some_have_failed(
    worker: TaskWorker, running: Running
):
    """One succeeds, one fails, one is aborted, and one fails because its parent failed."""
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
        assert (await last.result(timeout=10)).result == "all have ended"
        refused = await strict.result(timeout=10)

        late = await end.enqueue("late").start(after=done.id, regardless=True)
        assert (await late.result(timeout=10)).success

    assert not refused.success
    assert sorted(order[:2]) == ["done", "fails"]
    assert order[2:] == ["last", "late"]


async def test_the_progress_of_a_task_that_waits_counts_those_that_have_ended(
    worker: TaskWorker, running: Running
):
    """Watchers see it during the wait, at the end, and afterwards."""
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
    """There is nothing to wait for, or too much."""

    @robust_task(name="end")
    async def end() -> None: ...

    with pytest.raises(TaskError, match="regardless=True is for a task that waits for others"):
        end.enqueue().start(regardless=True)
    with pytest.raises(TaskError, match="takes up to 5,000 ids as after=, not 5,001"):
        end.enqueue().start(after=map(str, range(5001)))
