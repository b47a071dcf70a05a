"""Status, result and abort of an enqueued task."""

from __future__ import annotations

import asyncio

import pytest
from streaq import TaskStatus
from streaq.types import StreaqCancelled

from vibetuner.config import get_settings, using_settings
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.tasks.worker import TaskWorker, get_worker, open_queue

tasks = get_worker()


@tasks.task()
async def sleep_for_ever() -> None:
    await asyncio.sleep(3600)


@tasks.task()
async def divide(a: int, b: int) -> float:
    return a / b


async def test_a_task_stays_queued_until_a_worker_comes():
    """`enqueue` needs no worker: the task is QUEUED, and `abort(timeout=0)` returns False."""
    async with open_queue():
        task = await divide.enqueue(1, 2)
        assert await task.status() == TaskStatus.QUEUED
        assert await task.abort(timeout=0) is False


async def test_the_status_follows_the_task(worker: TaskWorker):
    """The status is DONE once the result is stored."""
    task = await divide.enqueue(6, 3)
    await task.result(timeout=30)

    assert await task.status() == TaskStatus.DONE


async def test_a_result_carries_the_value_or_the_exception(worker: TaskWorker):
    """``success`` is whether a result holds the task's value or its exception."""
    good = await (await divide.enqueue(6, 3)).result(timeout=30)
    bad = await (await divide.enqueue(6, 0)).result(timeout=30)

    assert good.success
    assert good.result == 2
    assert not bad.success
    assert isinstance(bad.exception, ZeroDivisionError)


async def test_waiting_for_a_result_can_end_without_one(worker: TaskWorker):
    """A timeout of `result()` ends only the wait; the task goes on running."""
    task = await sleep_for_ever.enqueue()
    with pytest.raises(TimeoutError):
        await task.result(timeout=1)

    assert await task.status() == TaskStatus.RUNNING
    assert await task.abort() is True


async def test_an_aborted_task_is_stopped_where_it_waits(worker: TaskWorker):
    """`abort()` returns True for a running task, and its result holds StreaqCancelled."""
    task = await sleep_for_ever.enqueue()

    assert await task.abort() is True

    result = await task.result(timeout=30)
    assert isinstance(result.exception, StreaqCancelled)


async def test_without_redis_url_enqueueing_names_the_line_to_add():
    """Without REDIS_URL, `enqueue` raises NotConfigured and names the line to add."""
    nothing = get_settings().model_copy(update={"redis_url": None})
    with using_settings(nothing), pytest.raises(NotConfigured, match="Redis not configured") as e:
        await divide.enqueue(1, 1)

    assert "REDIS_URL=redis://localhost:6379" in str(e.value)


async def test_without_an_open_queue_enqueueing_names_how_to_open_it():
    """In a process that has not opened the queue, `enqueue` fails and names `open_queue`."""
    with pytest.raises(ServiceUnavailable, match="async with open_queue"):
        await divide.enqueue(1, 1)
