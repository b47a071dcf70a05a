"""Aborts of tasks that don't run, and locks of unique tasks that failed without a run."""

from __future__ import annotations

from datetime import timedelta

from streaq import StreaqRetry
from streaq.types import StreaqCancelled

from tests.runtime.conftest import Running
from vibetuner.tasks.attempt import current_task_id
from vibetuner.tasks.robust import RetryLater
from vibetuner.tasks.worker import TaskWorker


async def test_an_abort_of_a_delayed_task_gives_a_result(worker: TaskWorker):
    """An abort of a delayed task stores a StreaqCancelled result, even while no worker runs."""

    @worker.task(name="later")
    async def later() -> None: ...

    async with worker:
        task = await later.enqueue().start(delay=60)
        assert await task.abort()
        result = await task.result(timeout=30)
        assert isinstance(result.exception, StreaqCancelled)
        assert result.fn_name == "later"


async def test_an_abort_of_a_task_that_waits_for_its_retry_gives_a_result(
    worker: TaskWorker, running: Running
):
    """An abort of a task that waits for its retry stores a StreaqCancelled result."""

    @worker.task(name="again")
    async def again() -> None:
        raise StreaqRetry(delay=timedelta(minutes=1))

    async with running(worker):
        task = await again.enqueue()
        while await worker.redis.zscore(worker.queue_key + "normal", task.id) is None:
            pass
        assert await task.abort()
        assert isinstance((await task.result(timeout=30)).exception, StreaqCancelled)


async def test_an_abort_of_a_task_that_waits_for_others_gives_a_result(
    worker: TaskWorker, running: Running
):
    """An abort of a dependency fails its dependents, except those with `regardless=True`.

    The task before it succeeds, and no key of the chain stays in Redis.
    """

    @worker.task(name="part")
    async def part() -> str:
        return "done"

    @worker.task(name="sum_up")
    async def sum_up() -> None: ...

    async with worker:
        first = part.enqueue()
        middle = sum_up.enqueue().start(after=first)
        last = await sum_up.enqueue().start(after=middle)
        careless = await sum_up.enqueue().start(after=middle.id, regardless=True)
        assert await middle.abort(0)
        assert isinstance((await middle.result(timeout=30)).exception, StreaqCancelled)
    async with running(worker):
        assert (await first.result(timeout=30)).result == "done"
        assert not (await last.result(timeout=30)).success
        assert (await careless.result(timeout=30)).success
        keys = worker.client.keys
        left = [keys.dependents(first.id), keys.dependencies(middle.id), keys.aborted]
        assert await worker.redis.exists(left) == 0
        assert await worker.queue_size() == 0


async def test_an_aborted_fallback_is_not_queued(worker: TaskWorker, running: Running):
    """A fallback that was aborted before its task failed gets no message in the stream."""

    @worker.task(name="part")
    async def part() -> None:
        raise ValueError

    @worker.task(name="mend")
    async def mend() -> None: ...

    async with worker:
        first = part.enqueue()
        fallback = first ^ mend
        await fallback
        assert await fallback.abort(0)
    async with running(worker):
        assert not (await first.result(timeout=30)).success
        stream = await worker.redis.xinfo_stream(worker.stream_key + "normal")
        assert stream["entries-added"] == 1


async def test_a_task_aborted_before_its_first_step_ends(worker: TaskWorker, running: Running):
    """A task that is aborted before its coroutine starts still ends with StreaqCancelled."""
    aborted: list[str] = []

    @worker.task(name="first")
    async def first() -> None:
        worker.abort_tasks(set(aborted))

    @worker.task(name="second")
    async def second() -> None: ...

    async with worker:  # a worker claims both at once, and starts them in one turn of the loop
        calls = [first.enqueue(), second.enqueue()]
        aborted.append(calls[1].id)
        await worker.enqueue_many(calls)
    async with running(worker):
        result = await calls[1].result(timeout=30)
        assert isinstance(result.exception, StreaqCancelled)
        assert result.fn_name == "second"


async def test_an_aborted_task_does_not_wait_for_its_retry(worker: TaskWorker, running: Running):
    """A task that is aborted and then raises RetryLater ends with StreaqCancelled at once."""

    @worker.task(name="again")
    async def again() -> None:
        await worker.abort_by_id(current_task_id(), timeout=0)
        raise RetryLater(after=60)

    async with running(worker):
        result = await (await again.enqueue()).result(timeout=30)
        assert isinstance(result.exception, StreaqCancelled)


async def test_an_abort_of_an_ended_task_marks_nothing(worker: TaskWorker, running: Running):
    """An abort of an ended or unknown task returns False, and leaves no mark for a later task."""

    @worker.task(name="noop")
    async def noop() -> int:
        return 1

    async with running(worker):
        task = await noop.enqueue()
        await task.result(timeout=30)
        assert await task.abort() is False
        assert await worker.abort_by_id("nobody", timeout=1) is False
        assert await worker.redis.exists([worker.client.keys.aborted]) == 0


async def test_a_unique_task_that_was_given_up_holds_no_lock(worker: TaskWorker, running: Running):
    """A unique task that fails because its worker died on the last try releases its lock."""

    @worker.task(name="single", unique=True, timeout=3600, max_tries=1)
    async def single() -> str:
        return "ran"

    async with running(worker):
        lost = single.enqueue()
        keys = worker.client.keys
        await worker.redis.set(keys.retry(lost.id), "1")  # its only try has started,
        await worker.redis.set(keys.lock("single"), lost.id)  # and its worker has died
        await lost
        assert not (await lost.result(timeout=30)).success
        assert (await (await single.enqueue()).result(timeout=30)).result == "ran"
