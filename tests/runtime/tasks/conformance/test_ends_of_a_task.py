"""The ends of a task, and what is recorded of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streaq import StreaqError, StreaqRetry, TaskStatus, Worker
from streaq.types import StreaqCancelled

from tests.waiting import eventually
from vibetuner.tasks.worker import TaskWorker

from .conftest import at_work, drain, soon


async def test_a_success_is_recorded_whole(worker: Worker[Any]):
    """Value, times, tries, worker."""

    @worker.task(name="add")
    async def add(left: int, *, right: int) -> int:
        return left + right

    async with at_work(worker):
        task = await add.enqueue(1, right=2)
        result = await task.result(timeout=10)

        assert result.success
        assert result.result == 3
        assert (result.task_id, result.fn_name, result.tries) == (task.id, "add", 1)
        assert result.worker_id == worker.id
        times = [
            result.created_time, result.enqueue_time, result.start_time, result.finish_time,
        ]  # fmt: skip
        assert times == sorted(times)
        assert abs(times[0] / 1000 - datetime.now(UTC).timestamp()) < 60
        assert await task.status() == TaskStatus.DONE
        assert worker.counters["completed"] == 1


async def test_a_task_without_async_runs_in_a_thread(worker: Worker[Any]):
    """Its result and its exception are as any other's."""

    @worker.task(name="halve")
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number // 2

    async with at_work(worker):
        even, odd = await halve.enqueue(4), await halve.enqueue(3)

        assert (await even.result(timeout=10)).result == 2
        assert str((await odd.result(timeout=10)).exception) == "odd"


async def test_an_exception_is_the_end(worker: Worker[Any]):
    """There is no second try unless the task asks for one."""

    @worker.task(name="fail")
    async def fail() -> None:
        raise LookupError("not here")

    async with at_work(worker):
        result = await (await fail.enqueue()).result(timeout=10)

        assert not result.success
        assert isinstance(result.exception, LookupError)
        assert result.tries == 1
        assert worker.counters["failed"] == 1


async def test_a_task_may_ask_for_another_try(worker: Worker[Any]):
    """After a delay, or at a moment; the tries are counted."""

    @worker.task(name="later", max_tries=5)
    async def later() -> int:
        if later.context.tries == 1:
            raise StreaqRetry(delay=soon(0.1))
        if later.context.tries == 2:
            raise StreaqRetry(schedule=datetime.now(UTC) + soon(0.1))
        return later.context.tries

    async with at_work(worker):
        result = await (await later.enqueue()).result(timeout=10)

        assert result.result == result.tries == 3
        assert worker.counters["retried"] == 2


async def test_a_retry_without_a_delay_waits_for_tries_squared(worker: Worker[Any]):
    """One second after the first."""

    @worker.task(name="again")
    async def again() -> float:
        if again.context.tries == 1:
            raise StreaqRetry("once more")
        return asyncio.get_running_loop().time()

    async with at_work(worker):
        began = asyncio.get_running_loop().time()
        result = await (await again.enqueue()).result(timeout=10)

        assert result.result - began >= 0.99


async def test_the_try_after_the_last_is_refused(worker: Worker[Any]):
    """``max_tries`` are run, one more finds the limit reached."""
    begun: list[int] = []

    @worker.task(name="stubborn", max_tries=2)
    async def stubborn() -> None:
        begun.append(stubborn.context.tries)
        raise StreaqRetry(delay=soon(0.05))

    async with at_work(worker):
        result = await (await stubborn.enqueue()).result(timeout=10)

        assert str(result.exception) == "Max retry attempts reached for task!"
        assert begun == [1, 2]
        assert result.tries == 3


async def test_a_timeout_is_the_end(worker: Worker[Any]):
    """With a TimeoutError of the engine's."""

    @worker.task(name="slow", timeout=soon(0.1))
    async def slow() -> None:
        await asyncio.sleep(30)

    async with at_work(worker):
        result = await (await slow.enqueue()).result(timeout=10)

        assert isinstance(result.exception, TimeoutError)
        assert result.tries == 1


async def test_a_timeout_is_retried_where_that_is_asked_for(worker: Worker[Any]):
    """With ``retry_timeouts=True``, a task that has timed out gets its next try."""

    @worker.task(name="slow", timeout=soon(0.1), retry_timeouts=True)
    async def slow() -> int:
        if slow.context.tries == 1:
            await asyncio.sleep(30)
        return slow.context.tries

    async with at_work(worker):
        assert (await (await slow.enqueue()).result(timeout=10)).result == 2


async def test_an_unknown_function_is_refused(worker: Worker[Any]):
    """Its name is in the result."""
    async with at_work(worker):
        result = await (await worker.enqueue_unsafe("nobody")).result(timeout=10)

        assert str(result.exception) == "Missing function nobody!"
        assert result.fn_name == "nobody"


async def test_an_expired_task_is_not_run(worker: Worker[Any]):
    """Whoever waits for it is told."""

    @worker.task(name="brief", expire=soon(0.05))
    async def brief() -> None:
        raise AssertionError("too late")

    async with worker:
        task = await brief.enqueue()
        await eventually(lambda: _is_gone(worker, worker.task_key + task.id))
    await drain(worker)
    async with worker:
        assert str((await task.result(timeout=10)).exception) == "Task expired!"


async def test_a_forged_payload_is_not_run(worker: Worker[Any]):
    """The signature is checked first."""

    @worker.task(name="open")
    async def open_() -> None: ...

    async with worker:
        task = await open_.enqueue()
        await worker.redis.set(worker.task_key + task.id, b"\xff" * 99)
    await drain(worker)
    async with worker:
        result = await task.result(timeout=10)
        assert str(result.exception) == "Invalid signature for task data!"


async def test_a_result_lives_as_long_as_ttl_says(worker: Worker[Any]):
    """Not at all with 0, five minutes by default, for ever with None."""
    tasks = []
    for name, ttl in {"none": 0, "short": 30, "ever": None}.items():

        @worker.task(name=name, ttl=ttl)
        async def noop() -> None: ...

        tasks.append(noop)

    @worker.task(name="default")
    async def default() -> None: ...

    async with worker:
        ids = [(await task.enqueue()).id for task in (*tasks, default)]
    await drain(worker)
    async with worker:
        left = [await worker.redis.ttl(worker.results_key + name) for name in ids]
        indexed = await worker.redis.zrange(worker._results_set, 0, -1)
    assert left[0] == -2
    assert 20 < left[1] <= 30
    assert left[2] == -1
    assert 290 < left[3] <= 300
    assert set(indexed) == set(ids[1:])


async def test_a_unique_task_runs_once_at_a_time(worker: Worker[Any]):
    """The second is refused, and the lock is let go at the end of the first."""
    go = asyncio.Event()

    @worker.task(name="single", unique=True, timeout=30)
    async def single(number: int) -> int:
        if number == 1:
            await go.wait()
        return number

    async with at_work(worker):
        first = await single.enqueue(1)
        await eventually(lambda: worker.running() == 1)
        clash = await (await single.enqueue(2)).result(timeout=10)
        go.set()
        assert (await first.result(timeout=10)).result == 1
        third = await (await single.enqueue(3)).result(timeout=10)

    assert str(clash.exception).startswith("Task is unique and another instance")
    assert third.result == 3


async def test_a_middleware_stands_around_each_try(worker: Worker[Any]):
    """The last that is registered is the innermost."""
    seen: list[str] = []
    for name in ("outer", "inner"):

        @worker.middleware
        def around(run: Any, name: str = name) -> Any:
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                seen.append(name)
                return await run(*args, **kwargs) + 1

            return wrapped

    @worker.task(name="zero")
    async def zero() -> int:
        return 0

    async with at_work(worker):
        assert (await (await zero.enqueue()).result(timeout=10)).result == 2
    assert seen == ["outer", "inner"]


@pytest.mark.parametrize("when", ["running", "queued", "delayed", "done"])
async def test_an_abort(worker: Worker[Any], when: str):
    """True for what it has stopped, and StreaqCancelled in its place; False for what is done."""
    release = asyncio.Event()

    @worker.task(name="endless")
    async def endless() -> str:
        await release.wait()
        return "let go"

    if when == "delayed":
        async with worker:
            task = await endless.enqueue().start(delay=60)
            assert await task.abort() is True
            # streaq leaves whoever waits for the result without one.
            ours = isinstance(worker, TaskWorker)
            assert await task.status() == (TaskStatus.DONE if ours else TaskStatus.NOT_FOUND)
            if ours:
                result = await task.result(timeout=20)
                assert isinstance(result.exception, StreaqCancelled)
        return
    if when == "queued":
        async with worker:
            task = await endless.enqueue()
            assert await task.abort(timeout=0) is False
        await drain(worker)
        async with worker:
            aborted = await task.result(timeout=20)
            assert str(aborted.exception) == "Task aborted prior to run!"
            assert isinstance(aborted.exception, StreaqCancelled)
        return
    async with at_work(worker):
        task = await endless.enqueue()
        await eventually(lambda: worker.running() == 1)
        if when == "done":
            release.set()
            await task.result(timeout=10)
            assert await task.abort(timeout=1) is False
            return
        assert await task.status() == TaskStatus.RUNNING
        assert await task.abort(timeout=10) is True
        assert str((await task.result(timeout=20)).exception) == "Task aborted by user!"
        assert worker.counters["aborted"] == 1


async def test_waiting_for_a_result_has_a_limit(worker: Worker[Any]):
    """A TimeoutError of the caller's, which changes nothing for the task."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        task = await noop.enqueue().start(delay=timedelta(hours=1))
        with pytest.raises(TimeoutError):
            await task.result(timeout=1)
        assert await task.status() == TaskStatus.SCHEDULED


async def test_arguments_that_cannot_be_stored_are_refused_at_the_call(worker: Worker[Any]):
    """The enqueue raises, and the queue stays empty."""

    @worker.task(name="take")
    async def take(thing: Any) -> None: ...

    async with worker:
        with pytest.raises(StreaqError, match="Unable to serialize task take"):
            await take.enqueue(lambda: None)
        assert await worker.queue_size() == 0


async def _is_gone(worker: Worker[Any], key: str) -> bool:
    return not await worker.redis.exists([key])
