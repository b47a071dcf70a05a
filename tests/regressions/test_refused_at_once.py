"""A mistake is refused on the line that makes it, and before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest

from vibetuner.config import Settings
from vibetuner.errors import ProjectError, TaskError, WrongEventLoop
from vibetuner.loader import load_project
from vibetuner.project import project_info
from vibetuner.tasks.registry import import_tasks
from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.testing import ManualWorker, held_open

HEAD = """
    from vibetuner.tasks.robust import robust_cron
    from vibetuner.tasks.worker import get_worker

    worker = get_worker()


"""


@pytest.mark.parametrize(
    ("decorator", "words"),
    [
        ('worker.cron("60 * * * *")', "The schedule '60 * * * *' has a wrong minute: 60"),
        ('worker.cron("* * * *")', "The schedule '* * * *' has 4 fields"),
        ('robust_cron("0 0 30 2 *")', "The schedule '0 0 30 2 *' never comes due"),
        ('worker.cron("0 0 3 * * *")', "The schedule '0 0 3 * * *' has 6 fields"),
        ("worker.task(ttl=-5)", "ttl takes 0 seconds or more, not -5"),
        ("worker.task(expire=-1)", "expire takes more than 0 seconds, not -1"),
    ],
)
def test_a_wrong_decorator_is_refused_with_its_line(
    stand_in: Callable[..., Path], decorator: str, words: str
):
    """In one line, whoever loads the project: worker, web app, doctor, tests."""
    root = stand_in({"tasks.py": f"{HEAD}    @{decorator}\n    async def mail() -> None: ...\n"})
    load_project()

    with pytest.raises(ProjectError) as caught:
        import_tasks(project_info())

    place = f"{root / 'src' / 'shop' / 'tasks.py'}:7: ValueError: "
    assert str(caught.value).startswith(place + words)
    assert "\n" not in str(caught.value)


def test_two_tasks_with_one_name_are_refused_with_both_lines(stand_in: Callable[..., Path]):
    """The second's file and line stand in front."""
    task = "    @worker.task(name='mail')\n    async def {}() -> None: ...\n\n\n"
    root = stand_in({"tasks.py": HEAD + task.format("one") + task.format("two")})
    load_project()

    with pytest.raises(ProjectError) as caught:
        import_tasks(project_info())

    file = root / "src" / "shop" / "tasks.py"
    assert f"Two tasks are named mail: one ({file}:7) and one ({file}:11). " in str(caught.value)


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[TaskWorker]:
    worker = TaskWorker(settings)

    @worker.task(name="mail")
    async def mail(to: str) -> None: ...

    async with held_open(worker):
        yield worker


@pytest.mark.parametrize(
    "start",
    [
        {"delay": 1_800_000_000_000},
        {"schedule": datetime(1969, 1, 1, tzinfo=UTC)},
        {"schedule": "60 * * * *"},
        {"priority": "urgent"},
    ],
    ids=str,
)
async def test_a_refused_call_leaves_nothing_in_redis(queue: TaskWorker, start: dict[str, Any]):
    """Alone, and among others that are fair."""
    call = queue.registry["mail"].enqueue("ann").start(**start)
    with pytest.raises(TaskError, match="^mail: "):
        await call
    with pytest.raises(TaskError, match="^mail: "):
        await queue.enqueue_many([queue.registry["mail"].enqueue("bob"), call])

    assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:*")] == []


async def test_a_sync_function_enqueues_in_the_loop_that_owns_the_queue(queue: TaskWorker):
    """And is told so when it makes a loop of its own."""
    task = queue.registry["mail"]

    async def enqueue() -> None:
        await task.enqueue("ann")

    with pytest.raises(WrongEventLoop, match=r"^The queue is open in another event loop"):
        await anyio.to_thread.run_sync(lambda: asyncio.run(enqueue()))
    assert await queue.queue_size() == 0

    await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(task.enqueue, "ann"))
    assert await queue.queue_size() == 1


@pytest.fixture
def empty_project(stand_in: Callable[..., Path]) -> Path:
    return stand_in()


async def test_tasks_enqueued_together_are_recorded(
    empty_project: Path, vibetuner_worker: ManualWorker
):
    """One by one, with its arguments."""
    queue = get_worker()

    @queue.task(name="many")
    async def many(number: int) -> None: ...

    await queue.enqueue_many([many.enqueue(1), many.enqueue(2)])

    vibetuner_worker.assert_enqueued(many, args=(1,), times=1)
    vibetuner_worker.assert_enqueued(many, times=2)
