"""Every public function that uses Redis raises its documented error when Redis is lost."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from streaq import TaskStatus

from tests.valkey import Valkey
from vibetuner.config import using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.client import open_resource
from vibetuner.sse import broadcast
from vibetuner.tasks import dead_letters
from vibetuner.tasks.progress import watch_progress
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import TaskWorker, using_worker

LIMIT_SECONDS = 30
STATUSES = (TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.SCHEDULED, TaskStatus.DONE)


async def first(items: Any) -> None:
    """Ask for one item."""
    async for _ in items:
        break


async def awaited(call: Any) -> Any:
    """Await a call, which enqueues it."""
    return await call


def calls(worker: TaskWorker, noop: Any, only: Any) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return a call of each function, by its name."""
    found: dict[str, Callable[[], Awaitable[Any]]] = {
        "enqueue": lambda: awaited(noop.enqueue()),
        "enqueue later": lambda: awaited(noop.enqueue().start(delay=timedelta(hours=1))),
        "enqueue repeated": lambda: awaited(noop.enqueue().start(schedule="* * * * *")),
        "enqueue once": lambda: awaited(noop.enqueue().once("key")),
        "enqueue unique": lambda: awaited(only.enqueue()),
        "enqueue a chain": lambda: awaited(noop.enqueue() | noop),
        "enqueue a fallback": lambda: awaited(noop.enqueue().otherwise(noop)),
        "enqueue unsafe": lambda: awaited(worker.enqueue_unsafe("noop")),
        "enqueue many": lambda: worker.enqueue_many([noop.enqueue() for _ in range(3)]),
        "result": lambda: worker.result_by_id("x", timeout=3),
        "abort": lambda: worker.abort_by_id("x", timeout=3),
        "status": lambda: worker.status_by_id("x"),
        "info": lambda: worker.info_by_id("x"),
        "unschedule": lambda: worker.unschedule_by_id("x"),
        "queue size": worker.queue_size,
        "list letters": dead_letters.list_letters,
        "count letters": dead_letters.count,
        "group letters": dead_letters.groups,
        "get a letter": lambda: dead_letters.get("x"),
        "get by a beginning": lambda: dead_letters.get("12345678"),
        "retry a letter": lambda: dead_letters.retry("x"),
        "discard a letter": lambda: dead_letters.discard("x"),
        "broadcast": lambda: broadcast("news", "hello"),
        "watch": lambda: first(watch_progress("x")),
    }
    for status in STATUSES:
        found[f"list {status}"] = lambda status=status: worker.get_tasks_by_status(status)
    return found


# coredis leaves sockets whose greeting was not answered to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["killed", "frozen"])
async def test_a_lost_redis_raises_service_unavailable(
    tmp_path: Path, fresh: None, stand_in: Callable[..., Path], loss: str
):
    """Every function raises ServiceUnavailable within 30 seconds if Redis is killed or frozen.

    Only result() waits for its own timeout.
    """
    stand_in()
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        worker = TaskWorker(valkey.settings)

        @worker.task(name="noop")
        async def noop() -> None: ...

        with using_worker(worker):

            @robust_task(max_retries=1, unique=Unique(clash="skip"))
            async def only() -> None: ...

            async with open_resource(valkey.settings, None), worker:
                await noop.enqueue()
                valkey.kill() if loss == "killed" else valkey.freeze()
                asked = calls(worker, noop, only)
                try:
                    async with asyncio.timeout(LIMIT_SECONDS):
                        ends = await asyncio.gather(
                            *(ask() for ask in asked.values()), return_exceptions=True
                        )
                finally:
                    if loss == "frozen":
                        valkey.thaw()
    errors = dict(zip(asked, ends, strict=True))
    assert isinstance(errors.pop("result"), TimeoutError)  # it waits for Redis, too
    wrong = {name: error for name, error in errors.items() if type(error) is not ServiceUnavailable}
    assert not wrong
    assert not [error for error in errors.values() if "\n" in str(error)]


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, function in vars(TaskWorker).items()
        if inspect.iscoroutinefunction(function)
        and not name.startswith("_")
        and name not in {"serialize", "deserialize", "queue_due", "run_async"}
    ),
)
def test_a_method_of_the_worker_names_its_errors(name: str):
    """The docstring of each public coroutine of TaskWorker documents ServiceUnavailable."""
    text = inspect.getdoc(vars(TaskWorker)[name]) or ""
    assert "ServiceUnavailable" in text.partition("Raises")[2]
