"""A mistake is refused on the line that makes it, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
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
    ("decorator", "message"),
    [
        ('worker.cron("60 * * * *")', "The schedule '60 * * * *' has a wrong minute: 60"),
        ('worker.cron("* * * *")', "The schedule '* * * *' has 4 fields"),
        ('robust_cron("0 0 30 2 *")', "The schedule '0 0 30 2 *' never comes due"),
        ('worker.cron("0 0 3 * * *")', "The schedule '0 0 3 * * *' has 6 fields"),
        ("worker.task(ttl=-5)", "ttl takes 0 seconds or more, not -5"),
        ("worker.task(expire=-1)", "expire takes more than 0 seconds, not -1"),
        ("worker.task(expire=0.0004)", "expire takes 0.001 seconds or more, not 0.0004"),
        ("worker.task(ttl=10**400)", "ttl takes a number of at most 1e+300, not one of 1,329 bits"),
        ("worker.task(name=7)", "name takes a text, not 7"),
        ("worker.task(name='a\\nb')", "name takes printable characters, not 'a\\nb'"),
        ("worker.task(silent='no')", "silent takes True or False, not 'no'"),
        ('robust_cron("0 3 * * *", backoff_max=1e308)', "backoff_max takes at most ten years"),
        ('worker.cron("0\\t3 * * *")', "The schedule '0\\t3 * * *' takes only spaces between"),
    ],
)
def test_a_wrong_decorator_is_refused_with_its_line(
    stand_in: Callable[..., Path], decorator: str, message: str
):
    """A decorator with a wrong argument raises ProjectError with its file and line, in one line."""
    root = stand_in({"tasks.py": f"{HEAD}    @{decorator}\n    async def mail() -> None: ...\n"})
    load_project()

    with pytest.raises(ProjectError) as caught:
        import_tasks(project_info())

    place, _, text = str(caught.value).partition("Error: ")
    assert place in {
        f"{root / 'src' / 'shop' / 'tasks.py'}:7: {kind}" for kind in ("Value", "Type")
    }
    assert text.startswith(message)
    assert "\n" not in text


def test_two_tasks_with_one_name_are_refused_with_both_lines(stand_in: Callable[..., Path]):
    """Two tasks of one name raise ProjectError with the file and the line of both."""
    task = "    @worker.task(name='mail')\n    async def {}() -> None: ...\n\n\n"
    root = stand_in({"tasks.py": HEAD + task.format("one") + task.format("two")})
    load_project()

    with pytest.raises(ProjectError) as caught:
        import_tasks(project_info())

    file = root / "src" / "shop" / "tasks.py"
    assert f"Two tasks are named mail: one ({file}:7) and one ({file}:11). " in str(caught.value)


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[TaskWorker]:
    """Yield an open queue with the task mail, without a worker that runs."""
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
        {"priority": 0},
        {"after": ""},
        {"after": 7},
        {"delay": 10**400},
    ],
    ids=str,
)
async def test_a_refused_call_leaves_nothing_in_redis(queue: TaskWorker, start: dict[str, Any]):
    """A wrong option of start() raises TaskError and stores nothing, also in enqueue_many()."""
    mail = queue.registry["mail"]
    with pytest.raises(TaskError, match="^mail: "):
        await mail.enqueue("ann").start(**start)
    with pytest.raises(TaskError, match="^mail: "):
        await queue.enqueue_many([mail.enqueue("bob"), mail.enqueue("ann").start(**start)])

    assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:*", count=10_000)] == []


@pytest.mark.parametrize("link", ["start", "end"])
@pytest.mark.parametrize("start", [{"delay": 60}, {"schedule": "0 3 * * *"}], ids=str)
async def test_a_chain_refuses_schedules_and_delayed_followers(
    queue: TaskWorker, link: str, start: dict[str, Any]
):
    """A chain refuses a schedule on any of its tasks, and a delay on a later one."""
    mail = queue.registry["mail"]
    if link == "start":
        chain = mail.enqueue("ann").start(**start).then(mail)
    else:
        chain = mail.enqueue("ann").then(mail).start(**start)

    if link == "start" and "delay" in start:
        await chain
        assert await queue.queue_size() == 1
        return
    with pytest.raises(TaskError, match="^mail is part of a chain: "):
        await chain
    assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:*", count=10_000)] == []


def test_a_chain_is_of_tasks_and_not_of_calls(settings: Settings):
    """A chain goes on with a task.

    A call raises TaskError, as the chain would not pass its arguments.
    """
    mail = TaskWorker(settings).task(name="mail")(print)
    for follow in ("then", "otherwise", "__or__", "__xor__"):
        with pytest.raises(TaskError, match="^mail is followed by a task, .* not by a TaskCall: "):
            getattr(mail.enqueue(), follow)(mail.enqueue())


@pytest.mark.parametrize("start", [{"delay": 60}, {"schedule": datetime(2100, 1, 1, tzinfo=UTC)}])
async def test_a_task_that_waits_for_others_takes_no_time(queue: TaskWorker, start: dict[str, Any]):
    """A second start() with a time raises TaskError, as the time would be ignored."""
    mail = queue.registry["mail"]
    call = mail.enqueue("ann").start(after=mail.enqueue("bob"))
    with pytest.raises(TaskError, match="^mail: start.. was called with after= before"):
        call.start(**start)


async def test_no_task_waits_for_itself(queue: TaskWorker):
    """A task that would wait for itself, directly or by way of another, raises TaskError."""
    mail = queue.registry["mail"]
    call, other = mail.enqueue("ann"), mail.enqueue("bob")
    for after in (call, call.id):
        with pytest.raises(TaskError, match="^mail: a task can't wait for itself"):
            call.start(after=after)
    with pytest.raises(TaskError, match="^mail: a task of after= waits for this one"):
        await call.start(after=other.start(after=call))


async def test_many_calls_may_come_from_a_generator(queue: TaskWorker):
    """enqueue_many() takes a generator, and refuses an item that is no call before it sends any."""
    mail = queue.registry["mail"]
    await queue.enqueue_many(mail.enqueue(name) for name in ("ann", "bob"))
    assert await queue.queue_size() == 2
    with pytest.raises(TaskError, match="takes calls such as task.enqueue.7., not a AsyncTask"):
        await queue.enqueue_many([mail.enqueue("eve"), mail])
    assert await queue.queue_size() == 2


@pytest.mark.parametrize(
    ("key", "keep"),
    [
        ("\ud800", timedelta(days=1)),
        ("a\0b", timedelta(days=1)),
        ("evt", timedelta(microseconds=1)),
    ],
)
def test_a_key_that_no_server_takes_is_refused(key: str, keep: timedelta, settings: Settings):
    """A key that can't be stored, or a `keep` that is too short, raises TaskError at the call."""
    mail = TaskWorker(settings).task(name="mail")(print)
    with pytest.raises(TaskError, match=r"^mail: once\(\) takes "):
        mail.enqueue("ann").once(key, keep=keep)


async def test_a_sync_function_enqueues_in_the_loop_that_owns_the_queue(queue: TaskWorker):
    """A sync function enqueues by anyio.from_thread.run().

    With a loop of its own it gets WrongEventLoop, and nothing is enqueued.
    """
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
    """Return a project that has no tasks."""
    return stand_in()


async def test_tasks_enqueued_together_are_recorded(
    empty_project: Path, vibetuner_worker: ManualWorker
):
    """The test's worker records each call of enqueue_many() with its arguments."""
    queue = get_worker()

    @queue.task(name="many")
    async def many(number: int) -> None: ...

    await queue.enqueue_many([many.enqueue(1), many.enqueue(2)])

    vibetuner_worker.assert_enqueued(many, args=(1,), times=1)
    vibetuner_worker.assert_enqueued(many, times=2)
