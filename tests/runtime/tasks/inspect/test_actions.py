"""Views of one task, the reasons why it waits, and actions on it."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

import pytest

from tests.waiting import eventually
from vibetuner.cli.checks.redis import check_lines
from vibetuner.config import Settings
from vibetuner.errors import TaskError, TaskNotFound
from vibetuner.tasks.inspect.actions import abort, check_arguments, enqueue, enqueue_again
from vibetuner.tasks.inspect.cron import CronHealth, judge, list_crons
from vibetuner.tasks.inspect.detail import find_task
from vibetuner.tasks.inspect.listing import list_tasks
from vibetuner.tasks.inspect.model import Filters, Row, State
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.inspect.stats import read_span
from vibetuner.tasks.inspect.why import explain
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import using_worker


async def state(queue: Queue, task_id: str) -> State:
    return (await find_task(queue, task_id)).row.state


async def texts(queue: Queue, task_id: str) -> str:
    _, reasons = await explain(queue, task_id)
    return "\n".join(f"{reason.text} -> {reason.cure}" for reason in reasons)


async def test_arguments_that_another_task_gives_are_announced(queue: Queue):
    """The view of a chained task names the task whose result becomes its arguments."""
    double, fails = queue.worker.registry["double"], queue.worker.registry["fails"]
    task = await double.enqueue(1).then(fails)
    detail = await find_task(queue, task.id)
    assert detail.arguments is None
    assert detail.note == f"The arguments come from the result of {detail.parents[0]}."


async def test_a_task_is_shown_before_and_after_its_end(queue_of: Queue, running):
    """The view of a task has its arguments, its result and its traceback, with secrets masked."""
    worker = queue_of.worker
    async with worker:
        good = await worker.registry["double"].enqueue(21, token="t0k3n")
        before = await find_task(queue_of, good.id)
        assert before.row.state is State.QUEUED
        assert before.arguments == {"number": "21", "token": "•••"}
    async with running(worker):
        bad = await worker.registry["fails"].enqueue()
        await good.result(timeout=30)
        await bad.result(timeout=30)
        done = await eventually(lambda: ended(queue_of, good.id))
        failed = await eventually(lambda: ended(queue_of, bad.id))

    assert done.row.state is State.DONE
    assert done.arguments == {"number": "21", "token": "•••"}
    assert done.result == '{"twice": 42, "password": "•••"}'
    assert done.row.waited is not None
    assert done.can_repeat
    assert failed.row.error == "ValueError: the till is empty"
    assert 'raise ValueError("the till is empty")' in failed.traceback


async def ended(queue: Queue, task_id: str):
    """Return the view of a task if the journal has its end, otherwise None."""
    if await queue.redis.hget(queue.keys.ids, task_id):
        return await find_task(queue, task_id)
    return None


async def test_a_queued_task_without_a_worker_is_explained(queue: Queue):
    """The reason for a queued task is that no worker runs, with the command that starts one."""
    task = await queue.worker.registry["double"].enqueue(1)

    assert "No worker is running on the queue" in await texts(queue, task.id)
    assert "-> vibetuner run dev worker" in await texts(queue, task.id)
    with pytest.raises(TaskNotFound, match="There is no task nobody"):
        await explain(queue, "nobody")


async def test_a_scheduled_task_is_explained_by_its_time(queue: Queue):
    """The reason for a scheduled task is its time.

    An abort ends such a task at once, and a second abort raises TaskError.
    """
    task = await queue.worker.registry["double"].enqueue(1).start(delay=3600)

    assert "It is scheduled for" in await texts(queue, task.id)
    assert await abort(queue, task.id) is True
    assert await state(queue, task.id) is State.ABORTED
    assert "It is aborted" in await texts(queue, task.id)
    with pytest.raises(TaskError, match="has ended already: aborted"):
        await abort(queue, task.id)


async def test_a_task_that_waits_for_a_lost_one_is_explained(queue: Queue):
    """The reason for a task that would wait for ever is that the task it waits for is gone."""
    double = queue.worker.registry["double"]
    first = await double.enqueue(1).start(delay=3600)
    task = await double.enqueue(1).start(after=first.id)
    keys = queue.engine_keys
    await queue.redis.delete([f"{keys.queue}:task:data:{first.id}"])
    await queue.redis.zrem(keys.delayed(queue.worker.priorities[-1]), [first.id])

    assert await state(queue, task.id) is State.WAITING
    assert f"It waits for {first.id}, which is gone" in await texts(queue, task.id)


async def test_a_running_worker_is_looked_at_for_the_reason(queue_of: Queue, running):
    """The reasons name the worker that runs a task, and a task that no live worker knows."""
    worker = queue_of.worker
    async with running(worker):
        holder = await worker.registry["alone"].enqueue()
        await eventually(queue_of.running)
        assert f"It runs on worker {worker.id}" in await texts(queue_of, holder.id)
        second = await worker.registry["alone"].enqueue().start(delay=600)
        stranger = await worker.enqueue_unsafe("not_listed").start(delay=600)
        assert "No live worker knows the task not_listed" in await texts(queue_of, stranger.id)
        assert "It is scheduled for" in await texts(queue_of, second.id)
        assert await abort(queue_of, holder.id) is True
        await eventually(lambda: ended(queue_of, holder.id))
        assert await state(queue_of, holder.id) is State.ABORTED


async def test_a_task_whose_payload_expires_while_it_runs_is_known(queue_of: Queue, running):
    """A task that began before its payload expired is found, explained, followed and aborted."""
    worker = queue_of.worker
    async with running(worker):
        task = await worker.registry["waits"].enqueue()
        await eventually(queue_of.running)
        await queue_of.redis.delete([queue_of.engine_keys.data(task.id)])  # as after expire=
        assert f"It runs on worker {worker.id}" in await texts(queue_of, task.id)
        follower = await worker.registry["double"].enqueue(1).start(after=task.id)
        assert f"It waits for waits {task.id}" in await texts(queue_of, follower.id)
        assert await abort(queue_of, task.id) is True
        await eventually(lambda: ended(queue_of, task.id))
        assert not (await follower.result(timeout=30)).success
        assert await state(queue_of, task.id) is State.ABORTED
        assert await queue_of.redis.exists([queue_of.engine_keys.aborted]) == 0


async def test_a_task_in_line_names_the_one_that_comes_first(queue: Queue):
    """The reason for a task in line is the first task with its arguments.

    An abort ends a task in line at once.
    """
    with using_worker(queue.worker):

        @robust_task(name="charge", unique=Unique(by=("account",), clash="wait"))
        async def charge(account: int, note: str) -> None: ...

    first, second = [await charge.enqueue(1, note) for note in ("first", "second")]
    other = await charge.enqueue(2, "other")
    assert f"charge is unique, and {first.id} comes first" in await texts(queue, second.id)
    assert "is unique" not in await texts(queue, first.id) + await texts(queue, other.id)
    page = await list_tasks(queue, Filters(states=frozenset({State.QUEUED})), limit=2)
    rest = await list_tasks(queue, Filters(), limit=2, after=page.next)
    assert {row.task_id for row in (*page.rows, *rest.rows)} == {first.id, second.id, other.id}
    assert (await queue.counts()).queued == 3
    assert await abort(queue, second.id) is True
    assert await state(queue, second.id) is State.ABORTED
    assert (await queue.counts()).queued == 2


async def test_a_stuck_line_is_reported(queue: Queue, settings: Settings):
    """A line whose first task has lost its message is reported with the abort that frees it."""
    with using_worker(queue.worker):

        @robust_task(name="sync", unique=Unique(clash="wait"))
        async def sync() -> None: ...

    first, second, third = [await sync.enqueue() for _ in range(3)]
    assert "is in no queue" not in await texts(queue, first.id) + await texts(queue, second.id)
    assert await check_lines(queue.redis, settings) == []
    await queue.redis.delete([queue.engine_keys.stream("normal")])

    assert "and it comes first and is in no queue any more" in await texts(queue, first.id)
    assert f"and {first.id} comes first and is in no queue" in await texts(queue, second.id)
    [finding] = await check_lines(queue.redis, settings)
    assert finding.text.startswith("2 tasks wait in the line sync behind")
    assert finding.cure == f"vibetuner tasks abort {first.id}"
    assert await abort(queue, first.id) is True
    assert await check_lines(queue.redis, settings) == []
    assert f"and {second.id} comes first: this one waits" in await texts(queue, third.id)


async def test_an_abort_without_a_worker_waits_for_one(queue: Queue):
    """An abort of a queued task marks it, and the worker that claims it ends it."""
    task = await queue.worker.registry["double"].enqueue(1)

    assert await abort(queue, task.id) is False
    assert "asked to abort it" in await texts(queue, task.id)


async def test_a_task_is_enqueued_again_with_its_arguments(queue_of: Queue, running):
    """enqueue_again() copies the arguments to a new id, and an unknown id raises TaskNotFound."""
    async with running(queue_of.worker):
        first = await queue_of.worker.registry["double"].enqueue(4)
        await first.result(timeout=30)
        await eventually(lambda: ended(queue_of, first.id))
        again = await enqueue_again(queue_of, first.id)
        done = await eventually(lambda: ended(queue_of, again))

    assert again != first.id
    assert done.arguments == {"number": "4"}
    async with queue_of.worker:
        with pytest.raises(TaskNotFound):
            await enqueue_again(queue_of, "nobody")


async def test_arguments_of_a_task_enqueued_by_name_must_fit(queue: Queue):
    """Arguments are checked before the task is sent, and a text becomes a date if one is needed."""
    task_id = await enqueue(queue, "double", [3], {"day": "2026-05-01"})
    assert (await find_task(queue, task_id)).arguments == {"number": "3", "day": "2026-05-01"}

    with pytest.raises(TaskNotFound, match="no task doubel. Did you mean double"):
        await enqueue(queue, "doubel")
    with pytest.raises(TaskError, match=r"double\(number: .*missing a required argument"):
        await enqueue(queue, "double")
    with pytest.raises(TaskError, match="number= does not fit"):
        await enqueue(queue, "double", ["three"])
    with pytest.raises(TaskError, match="unexpected keyword argument 'nmber'"):
        await enqueue(queue, "double", [3], {"nmber": 3})
    function = queue.worker.registry["double"].fn
    assert check_arguments(function, "double", [1, "t", "2026-05-01"], {}) == (
        [1, "t", date(2026, 5, 1)], {},
    )  # fmt: skip


async def test_an_hour_and_a_day_add_up(queue_of: Queue, running):
    """The statistics of an hour and of a day count ends, and how long tasks waited and ran."""
    async with running(queue_of.worker):
        for name in ("double", "fails"):
            args = (1,) if name == "double" else ()
            await (await queue_of.worker.registry[name].enqueue(*args)).result(timeout=30)
        hour = await eventually(lambda: counted(queue_of))
        day = await read_span(queue_of, "day")

    for span, slices in ((hour, 60), (day, 96)):
        assert len(span.slices) == slices
        assert (span.total("done"), span.total("failed")) == (1, 1)
        assert span.percentile("wait", 0.95) is not None
        assert span.percentile("run", 0.5) is not None


async def counted(queue: Queue):
    """Return the statistics of the last hour once they have both tasks, otherwise None."""
    span = await read_span(queue, "hour")
    return span if span.total("done") + span.total("failed") == 2 else None


NOON = datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("due", "last", "seen", "running", "health"),
    [
        (60, -30, -9999, False, CronHealth.ON_TIME),
        (60, None, -9999, True, CronHealth.RUNNING),
        (-120, -9999, -9999, False, CronHealth.LATE),
        (60, -9999, -99999, False, CronHealth.MISSED),
        (60, None, -99999, False, CronHealth.MISSED),
        (60, None, -10, False, CronHealth.ON_TIME),
    ],
)
def test_a_schedule_is_judged_by_its_last_run(due, last, seen, running, health):
    """A schedule is on time, running, late or missed; a new one has missed nothing."""

    def at(seconds: int) -> datetime:
        return NOON + timedelta(seconds=seconds)

    row = None if last is None else Row(task_id="x", name="x", state=State.DONE, due=at(last))
    found, note = judge("55 11 * * *", at(due), row, at(seen), is_running=running, now=NOON)

    if health is CronHealth.ON_TIME and last == -30:
        assert found is health
    assert found is health
    assert bool(note) == (health in {CronHealth.LATE, CronHealth.MISSED})


@pytest.mark.parametrize("ended", [False, True])
async def test_an_abort_of_a_repeated_task_removes_its_schedule(queue: Queue, ended: bool):
    """The id of a repeated task removes its schedule and the next run, also after the first run."""
    worker = queue.worker
    task = await worker.registry["double"].enqueue(1).start(schedule="0 3 * * *")
    if ended:
        assert await task.abort(timeout=0)
        await queue.redis.zadd(worker.cron_schedule_key, {task.id: time.time() * 1000})
        await worker.queue_due()
        assert len(await list_crons(queue)) == 1
    assert await worker.queue_size() == 1
    assert await abort(queue, task.id)
    assert await list_crons(queue) == []
    assert await worker.queue_size() == 0
    with pytest.raises(TaskError, match="has ended already: aborted"):
        await abort(queue, task.id)


async def test_the_schedule_of_a_deleted_task_is_named_and_removed(queue: Queue):
    """A cron schedule without a task in the project is listed with the command that removes it.

    The schedule of an enqueued call has no such note.
    """
    double = queue.worker.registry["double"]
    await double.enqueue(1).start(schedule="0 3 * * *")
    client = queue.worker.client
    await client.store_schedule("clean", "0 4 * * *", b"", "normal", next_run=queue.worker.next_run)

    notes = {view.name: view.note for view in await list_crons(queue)}
    assert notes.pop("clean") == (
        "this project has no such task. Remove it:  vibetuner tasks abort clean"
    )
    assert list(notes.values()) == [""]
    assert await abort(queue, "clean")
    assert [view.name for view in await list_crons(queue)] == list(notes)
