"""A project's hooks for failed tries and dead letters, which hold up no worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.app import VibetunerApp
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ErrorContext
from vibetuner.tasks.dead_letters import DeadLetter, get
from vibetuner.tasks.robust import RetryLater, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

Make = Callable[..., TaskWorker]


@pytest.fixture
def make(stand_in: Callable[..., Any], settings: Settings) -> Iterator[Make]:
    """Yield a function that makes a worker with hooks, and with a robust task that fails twice."""
    stand_in()
    own = settings.model_copy(update={"mongodb_url": None})

    def made(**hooks: Any) -> TaskWorker:
        worker = TaskWorker(own, lambda: VibetunerApp(**hooks))
        with using_worker(worker):

            @robust_task(name="charge", max_retries=2, backoff_base=0.001)
            async def charge(order: str) -> None:
                raise ValueError(f"no money for {order}")

        @worker.task(name="fine")
        async def fine() -> str:
            return "fine"

        return worker

    with using_settings(own):
        yield made


async def run(worker: TaskWorker, name: str, *args: object) -> str:
    """Run a task to its end, and return its id."""
    task = await worker.registry[name].enqueue(*args)
    await task.result(timeout=30)
    return str(task.id)


async def test_each_failed_try_and_each_dead_letter_is_reported(make: Make, running: Running):
    """on_error gets every exception with its try, and on_failure the dead letter that is stored."""
    errors: list[tuple[BaseException, ErrorContext]] = []
    letters: list[DeadLetter] = []
    kept: list[DeadLetter] = []

    async def on_error(error: BaseException, about: ErrorContext) -> None:
        await asyncio.sleep(0)
        errors.append((error, about))

    async def on_failure(letter: DeadLetter) -> None:
        kept.append(await get(letter.task_id))
        letters.append(letter)

    worker = make(on_error=on_error, on_failure=on_failure)
    with using_worker(worker):
        async with running(worker):
            task_id = await run(worker, "charge", "A-17")
            await run(worker, "fine")
            await eventually(lambda: len(errors) == 2 and len(letters) == 1)

    assert [repr(error) for error, _ in errors] == ["ValueError('no money for A-17')"] * 2
    assert all(error.__traceback__ is not None for error, _ in errors)
    assert [about for _, about in errors] == [
        ErrorContext(name="charge", task_id=task_id, tries=1, is_final=False),
        ErrorContext(name="charge", task_id=task_id, tries=2, is_final=True),
    ]
    assert letters == kept
    assert (letters[0].task_id, letters[0].args, letters[0].tries) == (task_id, ["A-17"], 2)


async def test_functions_that_are_not_async_run_in_a_thread(make: Make, running: Running):
    """A sync hook may block: it runs in a daemon thread, and the worker goes on and stops."""
    free, began = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def on_error(_error: BaseException, _about: ErrorContext) -> None:
        threads.append(threading.current_thread())
        began.set()
        free.wait(60)

    worker = make(on_error=on_error)
    try:
        async with running(worker):
            await run(worker, "charge", "A-17")
            await eventually(began.is_set)
            await run(worker, "fine")
            worker.stop()  # the block's end asks again, so that nothing is waited for
        assert threads
        assert threading.main_thread() not in threads
        assert all(thread.daemon for thread in threads)
    finally:
        free.set()


@pytest.mark.parametrize("error", [ValueError("the hook is broken"), SystemExit(3)])
@pytest.mark.parametrize("is_async", [True, False])
async def test_an_exception_in_a_hook_is_logged(
    make: Make,
    running: Running,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    is_async: bool,
):
    """The worker goes on after an exception in a hook, even after SystemExit."""

    def on_failure(_letter: DeadLetter) -> None:
        raise error

    async def on_failure_async(_letter: DeadLetter) -> None:
        raise error

    worker = make(on_failure=on_failure_async if is_async else on_failure)
    async with running(worker):
        await run(worker, "charge", "A-17")
        await eventually(lambda: "on_failure for charge failed" in caplog.text)
        await run(worker, "fine")
    lines = [one for one in caplog.records if "on_failure" in one.getMessage()]
    assert [one.exc_info and one.exc_info[1] for one in lines] == [error]


async def test_a_request_for_another_try_is_not_an_error(make: Make, running: Running):
    """on_error gets nothing for RetryLater itself, only for the error that caused it."""
    reported: list[str] = []

    async def on_error(error: BaseException, _about: ErrorContext) -> None:
        reported.append(repr(error))

    worker = make(on_error=on_error)
    with using_worker(worker):

        @robust_task(name="comes_back", max_retries=3)
        async def comes_back() -> None:
            match worker.registry["comes_back"].context.tries:
                case 1:
                    raise RetryLater(after=0)
                case 2:
                    raise RetryLater(after=0) from ValueError("no")

    async with running(worker):
        await run(worker, "comes_back")
        await eventually(lambda: bool(reported))
    assert reported == ["ValueError('no')"]


async def test_a_stop_waits_for_a_running_hook(make: Make, running: Running):
    """A worker that stops lets a running hook finish, for which it has two seconds."""
    begun, has_finished = asyncio.Event(), False

    async def on_failure(_letter: DeadLetter) -> None:
        nonlocal has_finished
        begun.set()
        await asyncio.sleep(0.2)
        has_finished = True

    worker = make(on_failure=on_failure)
    async with running(worker):
        await run(worker, "charge", "A-17")
        await begun.wait()
    assert has_finished


async def test_without_hooks_nothing_is_added(make: Make, running: Running):
    """A worker of a project without hooks makes no object to call them."""
    worker = make()
    async with running(worker):
        assert worker._run is not None
        assert worker._run._hooks is None
