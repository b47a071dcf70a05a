"""Schedules that change: at a deployment, under an id again, or after their removal."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.app import VibetunerApp
from vibetuner.config import Settings
from vibetuner.tasks.call import TaskCall
from vibetuner.tasks.engine import cron_id
from vibetuner.tasks.inspect.cron import CronHealth, list_crons
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.payload import Kind
from vibetuner.tasks.run.delayed import Cron
from vibetuner.tasks.worker import TaskWorker


def nightly(worker: TaskWorker, **options: Any) -> Any:
    """Define a task that calls repeat."""

    @worker.task(name="note", **options)
    async def note(text: str) -> str:
        return text

    def call(text: str, line: str) -> TaskCall[Any, Any]:
        enqueued = note.enqueue(text)
        enqueued.id = "nightly"
        return enqueued.start(schedule=line)

    return call


async def planned(worker: TaskWorker) -> dict[str, int]:
    """Return the delayed tasks, and when they are due."""
    key = worker.client.keys.delayed("normal")
    found = await worker.redis.zrange(key, 0, -1, withscores=True)
    return {str(name): int(due) for name, due in found}


async def arguments(worker: TaskWorker, run: str) -> Any:
    """Return the arguments of a task that waits."""
    keys = worker.client.keys
    stored = await worker.client.functions.connection.call("GET", keys.data(run))
    return worker.client.codec.load(stored, Kind.CALL, run)["a"]


async def next_of(worker: TaskWorker, name: str) -> int:
    """Return when a schedule is due."""
    return int(await worker.redis.zscore(worker.client.keys.cron_schedule, name) or 0)


async def make_due(worker: TaskWorker, name: str, run: str) -> None:
    """Let a schedule be due, and its run with it; wait for the end of that run."""
    await worker.redis.zadd(worker.client.keys.delayed("normal"), {run: 1})
    await worker.redis.zadd(worker.client.keys.cron_schedule, {name: 1})
    await eventually(lambda: _has_moved_on(worker, name, run))


async def _has_moved_on(worker: TaskWorker, name: str, run: str) -> bool:
    ended = not await worker.redis.exists([worker.client.keys.data(run)])
    return ended and await next_of(worker, name) > 1


async def test_a_changed_line_replaces_the_run_that_the_old_one_planned(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A deployment with another line leaves only the run of the new one, earlier or later."""

    def deploy(line: str) -> TaskWorker:
        deployed = TaskWorker(settings)

        @deployed.cron(line, name="tick")
        async def tick() -> None: ...

        return deployed

    for line in ("0 0 1 1 *", "0 0 2 2 *", "0 0 1 1 *", "0 0 1 1 *"):
        async with running(deploy(line)) as deployed:
            due = await next_of(deployed, "tick")
            run = cron_id("tick", due)
            assert due == deployed.next_run(line)
            assert await planned(deployed) == {run: due}
            keys = deployed.client.keys
            data = [
                str(key) async for key in deployed.redis.scan_iter(keys.data("*"), count=10_000)
            ]
            assert data == [keys.data(run)]


async def test_a_cron_task_that_moves_to_another_queue_has_one_next_run(
    worker: TaskWorker, running: Running, settings: Settings
):
    """The next run of a cron task that moves to another queue is taken out of the old one."""
    for queue in ("high", "low", "high"):
        deployed = TaskWorker(settings, lambda: VibetunerApp(queues=["high", "low"]))

        @deployed.cron("0 0 1 1 *", name="tick", queue=queue)
        async def tick() -> None: ...

        async with running(deployed):
            places = [deployed.client.keys.delayed(name) for name in ("high", "low")]
            counts = [await deployed.redis.zcard(place) for place in places]
        assert counts == [int(queue == "high"), int(queue == "low")]


async def test_a_run_that_is_due_outlives_a_change_of_its_line(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A run that was missed while no worker ran takes place, also if the line has changed."""
    ran: list[str] = []

    @worker.cron("0 0 1 1 *", name="tick")
    async def tick() -> None: ...

    async with running(worker):
        run = cron_id("tick", await next_of(worker, "tick"))
    async with worker:
        await worker.redis.zadd(worker.client.keys.delayed("normal"), {run: 1})
        await worker.redis.zadd(worker.client.keys.cron_schedule, {"tick": 1})
    other = TaskWorker(settings)

    @other.cron("0 0 2 2 *", name="tick")
    async def changed() -> None:
        ran.append(changed.context.task_id)

    async with running(other):
        await eventually(lambda: ran == [run])
        assert await planned(other) == {
            cron_id("tick", other.next_run("0 0 2 2 *")): other.next_run("0 0 2 2 *")
        }


async def test_a_call_that_is_repeated_anew_has_one_next_run(worker: TaskWorker, running: Running):
    """A call repeated again under its id, as at each start of an app, is planned once."""
    call = nightly(worker, ttl=0)
    async with running(worker):
        await call("first", "0 3 * * *")
        due = await next_of(worker, "nightly")
        assert await planned(worker) == {"nightly": due}
        await make_due(worker, "nightly", "nightly")
        assert await planned(worker) == {cron_id("nightly", due): due}
        await call("second", "0 3 * * *")
        assert await planned(worker) == {"nightly": due}
        assert await arguments(worker, "nightly") == ("second",)


async def test_a_call_that_is_repeated_anew_keeps_a_run_that_is_due(
    worker: TaskWorker, running: Running
):
    """A run that is due when its call is repeated anew takes place, and the next run as well."""
    call = nightly(worker, ttl=60)
    async with running(worker):
        pass  # makes the queue
    async with worker:
        task = await call("first", "0 3 * * *")
        await worker.redis.zadd(worker.client.keys.delayed("normal"), {"nightly": 1})
        await call("second", "0 4 * * *")
        due = worker.next_run("0 4 * * *")
        assert await planned(worker) == {"nightly": 1, cron_id("nightly", due): due}
        assert await arguments(worker, cron_id("nightly", due)) == ("second",)
    async with running(worker):
        assert (await task.result(timeout=30)).result == "first"


@pytest.mark.parametrize("ttl", [0, 60])
async def test_a_call_that_is_repeated_anew_has_the_new_line_and_arguments(
    worker: TaskWorker, running: Running, ttl: int
):
    """The next run of a call that is repeated anew has its line, its queue and its arguments.

    This holds whether or not the result of the first run is kept.
    """
    call = nightly(worker, ttl=ttl)
    async with running(worker):
        await call("first", "0 3 * * *")
        await call("changed", "0 4 * * *")
        due = await next_of(worker, "nightly")
        assert (await planned(worker), due) == ({"nightly": due}, worker.next_run("0 4 * * *"))
        await make_due(worker, "nightly", "nightly")
        await call("again", "0 5 * * *")
        due = await next_of(worker, "nightly")
        (run,) = await planned(worker)
        assert (due, run == "nightly") == (worker.next_run("0 5 * * *"), not ttl)
        assert await arguments(worker, run) == ("again",)


async def test_a_call_that_is_repeated_after_its_removal_has_a_next_run(worker: TaskWorker):
    """A schedule that was removed and added again misses no run, while an aborted one is kept."""
    call = nightly(worker)
    async with worker:
        assert await (await call("first", "0 3 * * *")).unschedule()
        assert await planned(worker) == {}
        await call("second", "0 3 * * *")
        due = await next_of(worker, "nightly")
        assert await planned(worker) == {cron_id("nightly", due): due}


async def test_the_first_run_of_a_repeated_call_does_not_expire_before_it_is_due(
    worker: TaskWorker,
):
    """The first run of a repeated task with `expire=` is there when it is due."""
    call = nightly(worker, expire=timedelta(seconds=60))
    async with worker:
        await call("yearly", "0 0 1 1 *")
        assert await worker.redis.pttl(worker.client.keys.data("nightly")) == -1


async def test_a_schedule_that_is_removed_meanwhile_is_not_scheduled_again(worker: TaskWorker):
    """A worker that is about to schedule the next run of a removed schedule leaves nothing."""
    call = nightly(worker)
    async with worker:
        task = await call("first", "0 3 * * *")
        cron = Cron(worker.client, queue_of=worker.queue_of, next_run=worker.next_run)
        assert await task.unschedule()
        await cron.schedule("nightly", "0 3 * * *", "normal")
        assert (await planned(worker), await next_of(worker, "nightly")) == ({}, 0)


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-1"])
async def test_a_schedule_with_a_wrong_time_is_repaired_when_a_worker_starts(
    worker: TaskWorker, running: Running, score: str
):
    """A worker starts, and plans the next run, whatever time the schedule holds."""

    @worker.cron("0 0 1 1 *", name="tick")
    async def tick() -> None: ...

    async with worker:
        await worker.redis.zadd(worker.client.keys.cron_schedule, {"tick": float(score)})
    async with running(worker):
        assert await next_of(worker, "tick") == worker.next_run("0 0 1 1 *")


async def test_a_changed_line_has_missed_no_run_before_its_deployment(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A changed line has missed no run, although its time of the day has passed."""

    @worker.cron("0 0 1 1 *", name="tick")
    async def tick() -> None: ...

    async def is_seen() -> bool:
        return await worker.redis.hexists(worker.client.keys.journal.cron, "tick")

    async with running(worker):
        await eventually(is_seen)
    async with worker:
        days_ago = int(time.time() * 1000) - 3 * 86_400_000
        await worker.redis.hset(worker.client.keys.journal.cron, {"tick": str(days_ago)})
    past = datetime.now(UTC) - timedelta(hours=2)
    changed = TaskWorker(settings)

    @changed.cron(f"{past.minute} {past.hour} * * *", name="tick")
    async def later() -> None: ...

    async with running(changed):
        (view,) = await list_crons(Queue(changed, changed.client.keys.journal))
    assert (view.health, view.note) == (CronHealth.ON_TIME, "")
