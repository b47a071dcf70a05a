"""The ways in which a task ends, and the result that is recorded."""

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
    """The result of a successful task has its value, its times, its tries and the worker's id."""

    @worker.task(name="add")
    async def add(left: int, *, right: int) -> int:
        return left + right

    async with at_work(worker):
        task = await add.enqueue(1, right=2)
        result = await task.result(timeout=30)

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
    """A sync task's value or exception is recorded like that of an async one."""

    @worker.task(name="halve")
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number // 2

    async with at_work(worker):
        even, odd = await halve.enqueue(4), await halve.enqueue(3)

        assert (await even.result(timeout=30)).result == 2
        assert str((await odd.result(timeout=30)).exception) == "odd"


async def test_an_exception_is_the_end(worker: Worker[Any]):
    """A task that raises an exception fails with it after one try."""

    @worker.task(name="fail")
    async def fail() -> None:
        raise LookupError("not here")

    async with at_work(worker):
        result = await (await fail.enqueue()).result(timeout=30)

        assert not result.success
        assert isinstance(result.exception, LookupError)
        assert result.tries == 1
        assert worker.counters["failed"] == 1


async def test_a_task_may_ask_for_another_try(worker: Worker[Any]):
    """StreaqRetry runs the task again after a delay or at a time, and each try is counted."""

    @worker.task(name="later", max_tries=5)
    async def later() -> int:
        if later.context.tries == 1:
            raise StreaqRetry(delay=soon(0.1))
        if later.context.tries == 2:
            raise StreaqRetry(schedule=datetime.now(UTC) + soon(0.1))
        return later.context.tries

    async with at_work(worker):
        result = await (await later.enqueue()).result(timeout=30)

        assert result.result == result.tries == 3
        assert worker.counters["retried"] == 2


async def test_a_retry_without_a_delay_waits_for_tries_squared(worker: Worker[Any]):
    """The first retry without a delay waits one second, as the pause is the square of the tries."""

    @worker.task(name="again")
    async def again() -> float:
        if again.context.tries == 1:
            raise StreaqRetry("once more")
        return asyncio.get_running_loop().time()

    async with at_work(worker):
        began = asyncio.get_running_loop().time()
        result = await (await again.enqueue()).result(timeout=30)

        assert result.result - began >= 0.99


async def test_the_try_after_the_last_is_refused(worker: Worker[Any]):
    """A task that has used its ``max_tries`` fails before the next try, which is counted."""
    begun: list[int] = []

    @worker.task(name="stubborn", max_tries=2)
    async def stubborn() -> None:
        begun.append(stubborn.context.tries)
        raise StreaqRetry(delay=soon(0.05))

    async with at_work(worker):
        result = await (await stubborn.enqueue()).result(timeout=30)

        assert str(result.exception) == "Max retry attempts reached for task!"
        assert begun == [1, 2]
        assert result.tries == 3


async def test_a_timeout_is_the_end(worker: Worker[Any]):
    """A task that exceeds its timeout fails with TimeoutError after one try."""

    @worker.task(name="slow", timeout=soon(0.1))
    async def slow() -> None:
        await asyncio.sleep(30)

    async with at_work(worker):
        result = await (await slow.enqueue()).result(timeout=30)

        assert isinstance(result.exception, TimeoutError)
        assert result.tries == 1


async def test_a_timeout_is_retried_where_that_is_asked_for(worker: Worker[Any]):
    """A task with ``retry_timeouts=True`` that has timed out gets its next try."""

    @worker.task(name="slow", timeout=soon(0.1), retry_timeouts=True)
    async def slow() -> int:
        if slow.context.tries == 1:
            await asyncio.sleep(30)
        return slow.context.tries

    async with at_work(worker):
        assert (await (await slow.enqueue()).result(timeout=30)).result == 2


async def test_an_unknown_function_is_refused(worker: Worker[Any]):
    """A call of an unknown function fails, and its result names the function."""
    async with at_work(worker):
        result = await (await worker.enqueue_unsafe("nobody")).result(timeout=30)

        assert str(result.exception) == "Missing function nobody!"
        assert result.fn_name == "nobody"


async def test_an_expired_task_is_not_run(worker: Worker[Any]):
    """A task whose payload has expired fails with "Task expired!" and is not run."""

    @worker.task(name="brief", expire=soon(0.05))
    async def brief() -> None:
        raise AssertionError("too late")

    async with worker:
        task = await brief.enqueue()
        await eventually(lambda: _is_gone(worker, worker.task_key + task.id))
    await drain(worker)
    async with worker:
        assert str((await task.result(timeout=30)).exception) == "Task expired!"


async def test_a_forged_payload_is_not_run(worker: Worker[Any]):
    """A task whose payload was forged fails with an error about its signature."""

    @worker.task(name="open")
    async def open_() -> None: ...

    async with worker:
        task = await open_.enqueue()
        await worker.redis.set(worker.task_key + task.id, b"\xff" * 99)
    await drain(worker)
    async with worker:
        result = await task.result(timeout=30)
        assert str(result.exception) == "Invalid signature for task data!"


async def test_a_result_lives_as_long_as_ttl_says(worker: Worker[Any]):
    """A result is kept for `ttl` seconds, five minutes by default, and for ever with None.

    With 0, it is not kept at all.
    """
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
    """A second call of a unique task fails while the first runs, and succeeds afterwards."""
    go = asyncio.Event()

    @worker.task(name="single", unique=True, timeout=30)
    async def single(number: int) -> int:
        if number == 1:
            await go.wait()
        return number

    async with at_work(worker):
        first = await single.enqueue(1)
        await eventually(lambda: worker.running() == 1)
        clash = await (await single.enqueue(2)).result(timeout=30)
        go.set()
        assert (await first.result(timeout=30)).result == 1
        third = await (await single.enqueue(3)).result(timeout=30)

    assert str(clash.exception).startswith("Task is unique and another instance")
    assert third.result == 3


async def test_a_middleware_stands_around_each_try(worker: Worker[Any]):
    """Each try runs inside the middlewares, of which the last one registered is the innermost."""
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
        assert (await (await zero.enqueue()).result(timeout=30)).result == 2
    assert seen == ["outer", "inner"]


@pytest.mark.parametrize("when", ["running", "queued", "delayed", "done"])
async def test_an_abort(worker: Worker[Any], when: str):
    """An abort ends a running, queued or delayed task with StreaqCancelled, and no ended task."""
    release = asyncio.Event()

    @worker.task(name="endless")
    async def endless() -> str:
        await release.wait()
        return "let go"

    if when == "delayed":
        async with worker:
            task = await endless.enqueue().start(delay=60)
            assert await task.abort() is True
            # streaq stores no result here, so a caller that waits for it gets none.
            ours = isinstance(worker, TaskWorker)
            assert await task.status() == (TaskStatus.DONE if ours else TaskStatus.NOT_FOUND)
            if ours:
                result = await task.result(timeout=30)
                assert isinstance(result.exception, StreaqCancelled)
        return
    if when == "queued":
        async with worker:
            task = await endless.enqueue()
            assert await task.abort(timeout=0) is False
        await drain(worker)
        async with worker:
            aborted = await task.result(timeout=30)
            assert str(aborted.exception) == "Task aborted prior to run!"
            assert isinstance(aborted.exception, StreaqCancelled)
        return
    async with at_work(worker):
        task = await endless.enqueue()
        await eventually(lambda: worker.running() == 1)
        if when == "done":
            release.set()
            await task.result(timeout=30)
            assert await task.abort(timeout=1) is False
            return
        assert await task.status() == TaskStatus.RUNNING
        assert await task.abort(timeout=30) is True
        assert str((await task.result(timeout=30)).exception) == "Task aborted by user!"
        assert worker.counters["aborted"] == 1


async def test_waiting_for_a_result_has_a_limit(worker: Worker[Any]):
    """A caller that waits too long gets TimeoutError, which changes nothing for the task."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        task = await noop.enqueue().start(delay=timedelta(hours=1))
        with pytest.raises(TimeoutError):
            await task.result(timeout=1)
        assert await task.status() == TaskStatus.SCHEDULED


async def test_arguments_that_cannot_be_stored_are_refused_at_the_call(worker: Worker[Any]):
    """Arguments that can't be pickled raise StreaqError at the call, and nothing is enqueued."""

    @worker.task(name="take")
    async def take(thing: Any) -> None: ...

    async with worker:
        with pytest.raises(StreaqError, match="Unable to serialize task take"):
            await take.enqueue(lambda: None)
        assert await worker.queue_size() == 0


async def _is_gone(worker: Worker[Any], key: str) -> bool:
    return not await worker.redis.exists([key])
