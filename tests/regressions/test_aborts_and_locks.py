"""Aborts of tasks that do not run, and locks of tasks that were given up."""

from __future__ import annotations

from datetime import timedelta

from streaq import StreaqRetry
from streaq.types import StreaqCancelled

from tests.runtime.conftest import Running
from vibetuner.tasks.worker import TaskWorker


async def test_an_abort_of_a_delayed_task_gives_a_result(worker: TaskWorker):
    """Waiting callers get it, even if no worker runs."""

    @worker.task(name="later")
    async def later() -> None: ...

    async with worker:
        task = await later.enqueue().start(delay=60)
        assert await task.abort()
        result = await task.result(timeout=20)
        assert isinstance(result.exception, StreaqCancelled)
        assert result.fn_name == "later"


async def test_an_abort_of_a_task_that_waits_for_its_retry_gives_a_result(
    worker: TaskWorker, running: Running
):
    """It waits in the same sorted set as a delayed one."""

    @worker.task(name="again")
    async def again() -> None:
        raise StreaqRetry(delay=timedelta(minutes=1))

    async with running(worker):
        task = await again.enqueue()
        while await worker.redis.zscore(worker.queue_key + "normal", task.id) is None:
            pass
        assert await task.abort()
        assert isinstance((await task.result(timeout=20)).exception, StreaqCancelled)


async def test_an_abort_of_an_ended_task_marks_nothing(worker: TaskWorker, running: Running):
    """Otherwise a later task with that id would be aborted."""

    @worker.task(name="noop")
    async def noop() -> int:
        return 1

    async with running(worker):
        task = await noop.enqueue()
        await task.result(timeout=10)
        assert await task.abort() is False
        assert await worker.abort_by_id("nobody", timeout=1) is False
        assert await worker.redis.exists([worker.client.keys.aborted]) == 0


async def test_a_unique_task_that_was_given_up_holds_no_lock(worker: TaskWorker, running: Running):
    """For example, its worker was killed at every attempt."""

    @worker.task(name="single", unique=True, timeout=3600, max_tries=1)
    async def single() -> str:
        return "ran"

    async with running(worker):
        lost = single.enqueue()
        keys = worker.client.keys
        await worker.redis.set(keys.retry(lost.id), "1")  # it was begun once,
        await worker.redis.set(keys.lock("single"), lost.id)  # and its worker is gone
        await lost
        assert not (await lost.result(timeout=10)).success
        assert (await (await single.enqueue()).result(timeout=10)).result == "ran"
