"""Errors that end a task without a retry, and errors that name the time of the next try."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from tests.runtime.conftest import Running
from vibetuner.config import Settings
from vibetuner.errors import MailError, MailRefused
from vibetuner.tasks.dead_letters import Cause, get, open_dead_letters
from vibetuner.tasks.robust import GiveUp, RetryLater, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


def answer(status: int = 503, **headers: str) -> httpx2.HTTPStatusError:
    """Return the error that httpx raises for a status and headers."""
    request = httpx2.Request("GET", "http://shop.example")
    response = httpx2.Response(status, headers=headers, request=request)
    return httpx2.HTTPStatusError("busy", request=request, response=response)


def in_twenty_minutes() -> str:
    """Return an HTTP date."""
    return format_datetime(datetime.now(UTC) + timedelta(minutes=20), usegmt=True)


class AccountClosed(GiveUp):
    """A project's own subclass of GiveUp."""


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (GiveUp("account closed"), {}),
        (AccountClosed("account closed"), {}),
        (MailRefused("550 no such person"), {"retry_on": MailError}),
        (ValueError("not a number"), {"give_up_on": (ValueError,)}),
        (KeyError("unlisted"), {"retry_on": (ConnectionError,)}),
        (ExceptionGroup("of a TaskGroup", [GiveUp("account closed")]), {}),
    ],
)
async def test_a_task_that_gives_up_is_a_dead_letter_at_once(
    worker: TaskWorker, running: Running, error: Exception, options: dict[str, Any]
):
    """GiveUp, or an error that the rules list, leads to a dead letter after one try."""
    reported: list[Exception] = []
    with using_worker(worker):

        @robust_task(
            max_retries=5, on_failure=lambda _name, _id, error: reported.append(error), **options
        )
        async def close() -> None:
            raise error

        async with running(worker), open_dead_letters():
            task = await close.enqueue()
            result = await task.result(timeout=30)
            letter = await get(task.id)

    assert (result.tries, letter.tries, letter.cause) == (1, 1, Cause.GAVE_UP)
    assert type(result.exception) is type(reported[0]) is type(error)
    assert letter.error_type == type(error).__name__


async def test_on_failure_gets_the_arguments_that_it_declares(worker: TaskWorker, running: Running):
    """on_failure gets `args` and `kwargs` only if it declares them, beside three arguments."""
    reported: list[object] = []

    async def with_arguments(
        name: str,
        task_id: str,
        _error: Exception,
        *,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        reported.append((name, task_id, args, kwargs))

    with using_worker(worker):

        @robust_task(name="ship", on_failure=with_arguments)
        async def ship(order_id: str, *, fast: bool) -> None:
            raise GiveUp(order_id)

        @robust_task(
            name="plainly", on_failure=lambda *given, **named: reported.append((given, named))
        )
        async def plainly(order_id: str) -> None:
            raise GiveUp(order_id)

        async with running(worker):
            task = await ship.enqueue("A-7", fast=True)
            await task.result(timeout=30)
            other = await plainly.enqueue("A-8")
            error = (await other.result(timeout=30)).exception

    assert reported[0] == ("ship", task.id, ("A-7",), {"fast": True})
    [_, ((name, task_id, given_error), named)] = reported
    assert (name, task_id, type(given_error), named) == ("plainly", other.id, type(error), {})


async def test_a_task_without_retries_that_gives_up_has_failed(
    worker: TaskWorker, running: Running
):
    """A plain task that raises GiveUp fails with that error, and has no dead letter."""

    @worker.task(name="plain")
    async def plain() -> None:
        raise GiveUp("account closed")

    async with running(worker):
        task = await plain.enqueue()
        result = await task.result(timeout=30)
        assert await worker.redis.exists([worker.client.keys.letters]) == 0
    assert repr(result.exception) == "GiveUp('account closed')"


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryLater(after=timedelta(minutes=20)),
        lambda: RetryLater("the shop opens soon", after=1200),
        lambda: answer(**{"Retry-After": "1200"}),
        lambda: answer(429, **{"retry-after": in_twenty_minutes()}),
    ],
)
async def test_the_next_attempt_comes_when_the_error_says(
    worker: TaskWorker, running: Running, make: Callable[[], Exception]
):
    """The time that an error names replaces the backoff, even above the backoff's maximum."""
    with using_worker(worker):

        @robust_task(max_retries=2, backoff_max=1)
        async def wait() -> None:
            raise make()

    async with running(worker):
        task = await wait.enqueue()
        while (due := await worker.redis.zscore(worker.queue_key + "normal", task.id)) is None:
            pass
        wait_for = due / 1000 - datetime.now(UTC).timestamp()
        assert 1140 < wait_for <= 1201
        await task.abort()


async def test_retry_later_ends_after_max_retries(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A task that raises RetryLater at every try becomes a dead letter after max_retries."""
    with using_worker(worker):

        @robust_task(max_retries=3)
        async def later() -> None:
            raise RetryLater("not yet", after=timedelta(0))

        async with running(worker), open_dead_letters():
            task = await later.enqueue()
            result = await task.result(timeout=30)
            letter = await get(task.id)
    assert (result.tries, letter.cause) == (3, Cause.EXCEPTION)
    assert "not yet" in letter.error


@pytest.mark.parametrize("error", [GiveUp("gone"), AccountClosed("gone"), MailRefused("gone")])
def test_an_exception_arrives_unchanged(error: Exception):
    """An exception keeps its type and its text when it is pickled, as in a result."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), "gone")
