"""Each task has exactly one recorded end, also if it is replaced, ended or expired."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from streaq.types import StreaqCancelled

from tests.runtime.conftest import Running
from vibetuner.config import Settings, using_settings
from vibetuner.redis.blocking import ask
from vibetuner.redis.url import parse_url
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.mark.parametrize("delay", [0, 0.05])
async def test_a_call_after_an_abort_is_not_aborted(
    worker: TaskWorker, running: Running, delay: float
):
    """A unique call that follows an abort doesn't replace the aborted task, and succeeds."""
    with using_worker(worker):

        @robust_task(name="charge", unique=Unique(clash="replace"))
        async def charge(note: str) -> str:
            return note

    async with worker:
        old = await charge.enqueue("old")
        assert await worker.abort_by_id(old.id, timeout=0) is False  # marked
        new = await charge.enqueue("new").start(delay=delay)
        assert new.id != old.id
    async with running(worker):
        assert isinstance((await old.result(timeout=30)).exception, StreaqCancelled)
        assert (await new.result(timeout=30)).result == "new"


async def test_a_withdrawn_message_ends_nothing(worker: TaskWorker):
    """A claimed message whose task a newer call has delayed starts nothing and ends nothing."""
    with using_worker(worker):

        @robust_task(name="charge", unique=Unique(clash="replace"))
        async def charge(note: str) -> None: ...

    async with worker:
        task = await charge.enqueue("old")
        functions, keys = worker.client.functions, worker.client.keys
        await functions.call("make_groups", (keys.queue,), ["workers", 86_400_000, "normal"])
        head = ["workers", worker.id, 60_000, 900]
        now, *claimed = await functions.call("claim", (keys.queue,), [*head, 1, 1, "normal", 1])
        message = claimed[1]
        assert (await charge.enqueue("new").start(delay=60)).id == task.id

        await functions.call(
            "claim", (keys.queue,), [*head, 0, 0, "normal", message, task.id, 1, now]
        )
        assert await worker.redis.exists([keys.retry(task.id), keys.running]) == 0
        begin = ["charge", task.id, "normal", message, now, "workers", worker.id, 900]
        assert await functions.call("hold", (keys.queue,), begin) is None
        assert await _finish(worker, [*head, now, "step", 0], message, task.id, now) == [[1]]
        assert await worker.redis.exists([keys.data(task.id)]) == 1
        assert await worker.redis.exists([keys.result(task.id)]) == 0
        assert await worker.redis.zscore(keys.delayed("normal"), task.id) is not None


async def _finish(worker: TaskWorker, head: list[Any], message: bytes, task: str, now: int) -> Any:
    """Record the end of a task for a message, as a worker does."""
    keys = worker.client.keys
    names = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
    end = ["f", "normal", message, task, now, "result", "", "charge", "failed", "", "", 0]
    return await worker.client.functions.call("finish", names, [*head, *end])


@pytest.mark.parametrize("unique", [False, True, Unique(clash="wait")])
async def test_a_second_message_of_an_ended_task_ends_nothing(
    worker: TaskWorker, running: Running, unique: Unique | bool
):
    """A second message of an ended task is removed, and the task's result stays."""
    with using_worker(worker):

        @robust_task(name="charge", unique=unique, timeout=60)
        async def charge() -> str:
            return "done"

    async with running(worker):
        task = await charge.enqueue()
        await task.result(timeout=30)
        stream = worker.client.keys.stream("normal")
        await worker.redis.xadd(stream, {"task_id": task.id, "enqueue_time": "1700000000000"})
        assert (await (await charge.enqueue()).result(timeout=30)).success
    async with worker:
        assert (await task.result(timeout=30)).result == "done"
        assert await worker.redis.xlen(stream) == 0


@pytest.mark.parametrize("unique", [False, True, Unique(clash="wait"), Unique(clash="replace")])
async def test_a_task_whose_payload_expired_has_a_result(
    worker: TaskWorker, running: Running, unique: Unique | bool
):
    """A task whose payload expired fails with "Task expired!", be it queued, in line or delayed."""
    with using_worker(worker):

        @robust_task(name="charge", unique=unique, timeout=60)
        async def charge(note: str) -> str:
            return note

    async with worker:
        calls = [
            await charge.enqueue("waits"),
            await charge.enqueue("follows"),
            await charge.enqueue("late").start(delay=0.01),
        ]
        for call in calls:
            await worker.redis.delete([worker.client.keys.data(call.id)])
    async with running(worker):
        for call in calls:
            result = await call.result(timeout=30)
            assert str(result.exception) == "Task expired!"


@pytest.mark.parametrize("taken_over", [True, False])
async def test_a_worker_that_was_frozen_begins_only_what_is_still_its_own(
    worker: TaskWorker, settings: Settings, running: Running, taken_over: bool
):
    """A worker that was frozen runs a message only if no other worker has claimed it meanwhile."""
    own = settings.model_copy(update={"worker_idle_timeout": 1})
    runs: list[str] = []
    worker = TaskWorker(own)
    with using_settings(own), using_worker(worker):

        @robust_task(name="charge")
        async def charge(note: str) -> None:
            runs.append(note)

        async with running(worker):
            await (await charge.enqueue("first")).result(timeout=30)
            task = await charge.enqueue("second").start(delay=3600)
            stream = worker.client.keys.stream("normal")
            await asyncio.sleep(0.1)  # the worker waits in a blocking read
            # The worker shares this thread, so it does nothing until both commands are sent.
            address = parse_url(own.redis_url or "")
            [message] = ask(address, ["XADD", stream, "*", "task_id", task.id, "enqueue_time", "1"])
            time.sleep(1.1)  # noqa: ASYNC251 - freezes the worker
            taker = "other" if taken_over else worker.id
            ask(address, ["XCLAIM", stream, "workers", taker, "0", str(message)])

            await (await charge.enqueue("third")).result(timeout=30)
            assert runs == ["first", *(["second"] * (not taken_over)), "third"]
            retry = worker.client.keys.retry(task.id)
            assert await worker.redis.exists([retry]) == 0
