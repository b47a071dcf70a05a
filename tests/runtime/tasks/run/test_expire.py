"""``expire=``: it counts until a task begins, and an id is free again after it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streaq import StreaqRetry

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.errors import TaskExists
from vibetuner.redis.keys import GROUP
from vibetuner.tasks.call import TaskCall
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

SPAN = timedelta(milliseconds=500)


def named(call: TaskCall[Any, Any], task_id: str) -> TaskCall[Any, Any]:
    """Give a call an id of the project's own."""
    call.id = task_id
    return call


@pytest.mark.parametrize("kind", ["plain", "robust", "cron"])
async def test_a_task_that_began_in_time_does_not_expire_by_a_stop(
    worker: TaskWorker, running: Running, kind: str
):
    """A task that a stop requeues runs again, however long ago it was due."""
    begun = asyncio.Event()

    async def charge() -> str:
        if begun.is_set():
            return "again"
        begun.set()
        await asyncio.sleep(3600)
        return "first"

    with using_worker(worker):
        if kind == "plain":
            task: Any = worker.task(name="charge", expire=SPAN)(charge)
        elif kind == "robust":
            task = robust_task(name="charge", expire=SPAN)(charge)
        else:
            task = worker.cron("0 0 1 1 *", name="charge", max_schedule_drift=SPAN)(charge)
    worker.grace_period = 0
    async with running(worker):
        call = await task.enqueue()
        await begun.wait()
        await asyncio.sleep(2 * SPAN.total_seconds())  # the span is what this is about
    async with running(worker):
        result = await call.result(timeout=30)
    assert (result.success and result.result, result.tries) == ("again", 1)


@pytest.mark.parametrize("kind", ["plain", "robust"])
async def test_a_task_that_began_in_time_does_not_expire_before_its_retry(
    worker: TaskWorker, running: Running, kind: str
):
    """A retry that is due after ``expire=`` runs, and until then the task's id is taken."""

    async def charge() -> str:
        if task.context.tries == 1:
            raise StreaqRetry("later", delay=2 * SPAN)
        return "again"

    with using_worker(worker):
        make: Any = worker.task if kind == "plain" else robust_task
        task: Any = make(name="charge", expire=SPAN)(charge)
    async with running(worker):
        call = await task.enqueue()
        delayed = worker.client.keys.delayed("normal")
        await eventually(lambda: worker.redis.zcard(delayed))
        await asyncio.sleep(SPAN.total_seconds())  # the span is what this is about
        with pytest.raises(TaskExists, match="waits or runs already"):
            await named(task.enqueue(), call.id)
        result = await call.result(timeout=30)
    assert (result.success and result.result, result.tries) == ("again", 2)


async def test_a_robust_task_may_be_due_long_after_its_expire(worker: TaskWorker, running: Running):
    """`expire=` of a robust task counts from the time when it is due, however late that is."""
    with using_worker(worker):

        @robust_task(name="charge", expire=60)
        async def charge() -> str:
            return "charged"

    async with running(worker):
        keys, month = worker.client.keys, timedelta(days=30)
        late = datetime.now(UTC) + month
        for call in (charge.enqueue().start(delay=month), charge.enqueue().start(schedule=late)):
            await call
            assert await worker.redis.pttl(keys.data(call.id)) > month.total_seconds() * 1000
            await worker.redis.zadd(keys.delayed("normal"), {call.id: int(time.time() * 1000)})
            assert (await call.result(timeout=30)).result == "charged"


async def test_the_id_of_a_running_task_stays_taken(worker: TaskWorker, running: Running):
    """Nobody enqueues a task under the id of one that runs, however long it has run."""
    begun, go = asyncio.Event(), asyncio.Event()

    @worker.task(name="sync", expire=SPAN)
    async def sync(part: str) -> str:
        begun.set()
        await go.wait()
        return part

    async with running(worker):
        first = await named(sync.enqueue("first"), "sync-7")
        await begun.wait()
        data = worker.client.keys.data("sync-7")
        await eventually(lambda: _lasts(worker, data))
        await asyncio.sleep(SPAN.total_seconds())
        with pytest.raises(TaskExists):
            await named(sync.enqueue("second"), "sync-7")
        go.set()
        assert (await first.result(timeout=30)).result == "first"


async def _lasts(worker: TaskWorker, key: str) -> bool:
    return await worker.redis.pttl(key) == -1


async def test_a_call_under_the_id_of_one_that_expired_runs_once(
    worker: TaskWorker, running: Running
):
    """While no worker runs, a call under the same id replaces the one that has expired."""
    seen: list[int] = []

    @worker.task(name="sync", expire=timedelta(seconds=60))
    async def sync(minute: int) -> None:
        seen.append(minute)
        await asyncio.sleep(0.2)

    async with worker:
        keys = worker.client.keys
        for minute in range(3):
            task = await named(sync.enqueue(minute), "sync-7")
            if minute < 2:
                await worker.redis.delete([keys.data("sync-7")])  # as after expire=
        assert await worker.redis.xlen(keys.stream("normal")) == 1
    async with running(worker):
        await task.result(timeout=30)
        assert await worker.redis.exists([keys.message("sync-7")]) == 0
    assert seen == [2]


@pytest.mark.parametrize("place", ["delayed", "due", "aborted", "waiting", "released", "failing"])
async def test_a_call_runs_once_wherever_the_one_that_expired_under_its_id_was(
    worker: TaskWorker, running: Running, place: str
):
    """A call replaces one of its id that has expired while it was delayed, waited or was queued."""
    seen: list[str] = []

    @worker.task(name="sync", expire=timedelta(seconds=60))
    async def sync(part: str) -> str:
        seen.append(part)
        await asyncio.sleep(0.2)  # a second run would overlap
        return part

    async with worker:
        keys = worker.client.keys
        if place in {"delayed", "due", "aborted"}:
            first = await named(sync.enqueue("first"), "sync-7").start(delay=0.001)
            if place != "delayed":
                await eventually(lambda: _is_queued(worker))
            if place == "aborted":
                await first.abort(timeout=0)
        else:
            other = await sync.enqueue("other")
            first = await named(sync.enqueue("first"), "sync-7").start(after=other.id)
        await worker.redis.delete([keys.data("sync-7")])  # as after expire=
        if place in {"released", "failing"}:
            await _end(worker, "s" if place == "released" else "f")
        again = await named(sync.enqueue("again"), "sync-7")
    async with running(worker):
        assert (await again.result(timeout=9)).result == "again"
        last = await sync.enqueue("last")
        assert (await last.result(timeout=30)).result == "last"
        left = [keys.message("sync-7"), keys.dependencies("sync-7"), keys.aborted, keys.failing]
        assert not await worker.redis.exists(left)
    assert [part for part in seen if part != "other"] == ["again", "last"]


async def _is_queued(worker: TaskWorker) -> bool:
    await worker.queue_due()
    return await worker.redis.xlen(worker.client.keys.stream("normal")) == 1


async def _end(worker: TaskWorker, kind: str) -> None:
    """Claim the first task as a worker does, and record its end."""
    keys, call = worker.client.keys, worker.client.functions.call
    await call("make_groups", (keys.queue,), [GROUP, 86_400_000, "normal"])
    head = [GROUP, worker.id, 60_000, 900]
    now, _, message, task, *_ = await call("claim", (keys.queue,), [*head, 1, 1, "normal", 1])
    places = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
    end = [kind, "normal", message, task, now, "result", "", "sync", "ended", "", "", 0]
    assert await call("finish", places, [*head, now, "step", "", *end]) == []


async def test_an_expired_call_does_not_end_the_one_that_has_its_id(worker: TaskWorker):
    """A worker that has claimed an expired message records no end once its id is in use again."""

    @worker.task(name="sync", expire=timedelta(seconds=60))
    async def sync(minute: int) -> None: ...

    async with worker:
        keys, call = worker.client.keys, worker.client.functions.call
        await call("make_groups", (keys.queue,), [GROUP, 86_400_000, "normal"])
        await named(sync.enqueue(1), "sync-7")
        await worker.redis.delete([keys.data("sync-7")])  # as after expire=
        head = [GROUP, worker.id, 60_000, 900]
        now, _, message, *_ = await call("claim", (keys.queue,), [*head, 1, 1, "normal", 1])
        await named(sync.enqueue(2), "sync-7")

        places = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
        ids = ["normal", message, "sync-7", now]
        failed = ["f", *ids, "result", "", "sync", "failed", "", "", 1, "g", ""]
        assert await call("finish", places, [*head, now, "step", "", *failed]) == [[1]]
        assert await worker.redis.exists([keys.data("sync-7")]) == 1
        assert await worker.redis.exists([keys.result("sync-7")]) == 0
        assert await worker.redis.xlen(keys.stream("normal")) == 1
