"""Tasks: with a timeout, sync or async, and with the worker's context."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from vibetuner.context import Context, ctx
from vibetuner.errors import PayloadError
from vibetuner.tasks import WorkerDepends
from vibetuner.tasks.attempt import current_task_id
from vibetuner.tasks.worker import TaskWorker, get_worker

tasks = get_worker()


@tasks.task()
async def generate_report(account_id: str) -> dict[str, str]:
    """Pretend to work."""
    return {"status": "complete", "account_id": account_id}


@tasks.task(timeout=timedelta(milliseconds=100))
async def process_large_file(file_id: str) -> None:
    await asyncio.sleep(30)


@tasks.task()
def crunch(numbers: list[int]) -> int:
    """Sum numbers in a thread, as every sync task runs, so that it blocks no other task."""
    time.sleep(0.01)
    return sum(numbers)


@tasks.task(timeout=5)
async def who_am_i(greeting: str, context: Context = WorkerDepends()) -> str:
    return f"{greeting}, {context.project_slug} {context.version}"


@tasks.task(timeout=5)
def who_am_i_in_a_thread(context: Context = WorkerDepends()) -> str:
    return context.environment


@tasks.task()
async def shared_client(context: Context = WorkerDepends()) -> tuple[bool, bool]:
    return context.http_client.is_closed, context.http_client is ctx.http_client


@tasks.task()
async def own_id() -> str | None:
    return current_task_id()


async def test_a_task_runs_in_the_worker_and_returns_its_value(worker: TaskWorker):
    """The result of an enqueued task is the value that its function returned."""
    task = await generate_report.enqueue("acme")

    result = await task.result(timeout=30)

    assert result.result == {"status": "complete", "account_id": "acme"}


async def test_a_task_that_takes_longer_than_its_timeout_is_ended(worker: TaskWorker):
    """A try that exceeds its timeout fails with TimeoutError."""
    result = await (await process_large_file.enqueue("video")).result(timeout=30)

    assert not result.success
    assert isinstance(result.exception, TimeoutError)


async def test_a_sync_function_is_a_task_too(worker: TaskWorker):
    """A sync function can be a task, and its result is the function's return value."""
    result = await (await crunch.enqueue([1, 2, 3])).result(timeout=30)

    assert result.result == 6


async def test_a_task_receives_the_context_of_its_worker(worker: TaskWorker):
    """A parameter with `WorkerDepends` receives the context that the worker's lifespan yields."""
    task = await who_am_i.enqueue("hello")

    assert (await task.result(timeout=30)).result == "hello, tour 1.2.3"


async def test_a_sync_task_receives_the_context_too(worker: TaskWorker):
    """A sync task, which runs in a thread, receives the worker's context like an async one."""
    task = await who_am_i_in_a_thread.enqueue()

    assert (await task.result(timeout=30)).result == "test"


async def test_tasks_share_one_http_client(worker: TaskWorker):
    """The worker's context has an open HTTP client, and ``ctx`` refers to the same one."""
    task = await shared_client.enqueue()

    assert (await task.result(timeout=30)).result == (False, True)


async def test_the_context_is_there_when_the_function_is_called_directly():
    """A direct call, with no worker running, receives a context that is made for the call."""
    assert await who_am_i("hi") == "hi, tour 1.2.3"
    assert who_am_i_in_a_thread() == "test"


async def test_a_context_that_the_caller_passes_wins(worker: TaskWorker):
    """A context that the caller passes takes precedence over `WorkerDepends`."""
    other = Context(
        project_name="Other",
        project_slug="other",
        version="9",
        environment="test",
        debug=False,
        http_client=ctx.http_client,
    )

    assert await who_am_i("hi", other) == "hi, other 9"


async def test_every_log_line_of_a_task_can_carry_its_id(worker: TaskWorker):
    """`current_task_id()` returns the id that `enqueue` returned to the caller."""
    task = await own_id.enqueue()

    assert (await task.result(timeout=30)).result == task.id


async def test_an_argument_that_cannot_be_stored_is_named(worker: TaskWorker):
    """`enqueue` fails for an argument that can't be stored, and its error names the argument."""
    with pytest.raises(Exception, match="Unable to serialize") as caught:
        await generate_report.enqueue(lambda: "a function")  # type: ignore[arg-type]

    cause = caught.value.__cause__
    assert isinstance(cause, PayloadError)
    assert "generate_report: argument 1, a function, can't be stored" in str(cause)
