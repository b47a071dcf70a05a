"""``@robust_task()``: retries with growing pauses, then a dead letter."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streaq import TaskStatus
from streaq.task import TaskInfo

from tests.waiting import eventually
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker

failures: list[tuple[str, str, str]] = []


def record_failure(name: str, task_id: str, error: Exception) -> None:
    failures.append((name, task_id, str(error)))


async def record_failure_later(name: str, task_id: str, error: Exception) -> None:
    await asyncio.sleep(0)
    record_failure(name, task_id, error)


@robust_task(max_retries=3, backoff_base=0.1)
async def send_webhook(payload: dict[str, int]) -> int:
    """Fail before the try ``good_from``, and return its number; ``tries`` counts from one."""
    tries = send_webhook.context.tries
    if tries < payload["good_from"]:
        raise ConnectionError(f"try {tries} went wrong")
    return tries


@robust_task(max_retries=2, backoff_base=0.1, on_failure=record_failure_later)
async def critical_sync(data: str) -> None:
    raise ValueError(f"{data} is no use")


@robust_task(max_retries=1, on_failure=record_failure)
def in_a_thread() -> None:
    raise LookupError("nothing there")


@robust_task(max_retries=2, backoff_base=0.1, timeout=timedelta(milliseconds=50))
async def too_slow() -> None:
    await asyncio.sleep(30)


@robust_task(max_retries=2, backoff_base=1000, backoff_max=120)
async def patient() -> None:
    raise ConnectionError("later")


async def test_a_failing_task_is_tried_again_until_it_succeeds(worker: TaskWorker):
    """A robust task is retried until it succeeds, and its result is that of the last try."""
    result = await (await send_webhook.enqueue({"good_from": 3})).result(timeout=30)

    assert result.result == 3
    assert result.tries == 3


async def test_a_task_that_never_succeeds_becomes_a_dead_letter(worker: TaskWorker):
    """A robust task whose last try fails leaves a dead letter."""
    task = await critical_sync.enqueue("this")

    result = await task.result(timeout=30)

    assert isinstance(result.exception, ValueError)
    letter = await letter_of(task.id)
    assert letter["task_name"] == "critical_sync"
    assert letter["error"] == "this is no use"
    assert letter["error_type"] == "ValueError"
    assert letter["tries"] == 2
    assert datetime.now(UTC) - letter["failed_at"] < timedelta(seconds=30)


async def test_on_failure_may_be_sync_or_async(worker: TaskWorker):
    """``on_failure``, sync or async, is called with name, id and exception after the last try."""
    later = await critical_sync.enqueue("that")
    thread = await in_a_thread.enqueue()
    await later.result(timeout=30)
    await thread.result(timeout=30)

    assert ("critical_sync", later.id, "that is no use") in failures
    assert ("in_a_thread", thread.id, "nothing there") in failures


async def test_a_timeout_is_a_failed_try_like_any_other(worker: TaskWorker):
    """A try that times out is retried, and after the last one the task leaves a dead letter."""
    task = await too_slow.enqueue()

    result = await task.result(timeout=30)

    assert isinstance(result.exception, TimeoutError)
    assert (await letter_of(task.id))["tries"] == 2


async def test_the_pause_is_capped(worker: TaskWorker):
    """The pause is ``min(backoff_base ** tries, backoff_max)`` seconds: here 120, not 1000."""
    task = await patient.enqueue()

    async def scheduled() -> TaskInfo | None:
        return await task.info() if await task.status() == TaskStatus.SCHEDULED else None

    info = await eventually(scheduled, what=lambda: "a second try")

    assert info.scheduled is not None
    pause = (info.scheduled - datetime.now(UTC)).total_seconds()
    assert 110 < pause <= 120
    assert await task.abort() is True


async def test_called_directly_it_raises_like_any_function():
    """A direct call of a robust task raises the function's exception, and is not retried."""
    with pytest.raises(ValueError, match="here is no use"):
        await critical_sync("here")
    with pytest.raises(LookupError):
        in_a_thread()


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"max_retries": 0}, ValueError, "max_retries.*0"),
        ({"max_retries": "3"}, TypeError, "max_retries.*'3'"),
        ({"backoff_base": -1}, ValueError, "backoff_base.*-1"),
        ({"backoff_max": -5}, ValueError, "backoff_max.*-5"),
    ],
)
def test_a_wrong_parameter_is_refused_where_it_is_written(
    options: dict[str, Any], error: type[Exception], named: str
):
    """`robust_task()` refuses a wrong value at decoration, and names parameter and value."""
    with pytest.raises(error, match=named):
        robust_task(**options)


async def letter_of(task_id: str) -> dict[str, Any]:
    """Return the only document of a task in ``dead_letters``, once a worker has moved it there."""
    letters = mongo_database.get()["dead_letters"]
    (letter,) = await eventually(
        lambda: letters.find({"task_id": task_id}).to_list(), what=lambda: f"a letter of {task_id}"
    )
    return letter
