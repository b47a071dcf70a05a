"""The reasons why a task isn't running, each with its cure."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.valkey import Valkey, opened
from tests.waiting import eventually
from vibetuner.errors import TaskError
from vibetuner.redis.keys import JournalKeys
from vibetuner.stored import dump_record
from vibetuner.tasks.inspect.actions import enqueue_again
from vibetuner.tasks.inspect.detail import find_task
from vibetuner.tasks.inspect.model import State
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.inspect.why import MOST_PARENTS, explain
from vibetuner.tasks.journal import Beat, Started
from vibetuner.tasks.payload import Kind, dump
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


async def reasons(queue: Queue, task_id: str) -> list[tuple[str, str]]:
    return [(one.text, one.cure) for one in (await explain(queue, task_id))[1]]


async def texts(queue: Queue, task_id: str) -> str:
    return "\n".join(text for text, _ in await reasons(queue, task_id))


async def beat(queue: Queue, *, silent: float = 0, **changes: Any) -> None:
    """Store a worker's heartbeat that is ``silent`` seconds old."""
    at = int((time.time() - silent) * 1000)
    one = Beat(id="w1", at=at, queues=("normal",), **{"tasks": ("double", "alone"), **changes})
    await queue.redis.set(queue.keys.worker("w1"), dump_record(one))
    await queue.redis.zadd(queue.keys.workers, {"w1": at})


async def test_a_redis_that_takes_no_writes_is_the_first_reason(tmp_path: Path):
    """A Redis without memory is the first reason, with the doctor as the cure."""
    with Valkey(tmp_path) as server:
        async with opened(server) as (worker, number):
            task = await number.enqueue(1)
            await worker.redis.config_set({"maxmemory": 1})
            queue = Queue(worker, JournalKeys("own:"))
            (text, cure), *_ = await reasons(queue, task.id)
    assert text.startswith("Redis refuses to write: ")
    assert cure.startswith("vibetuner doctor")


async def test_a_payload_of_another_key_is_a_reason(queue: Queue):
    """A payload of another key is a reason, with SECRET_KEY_PREVIOUS as the cure.

    The task's arguments are not shown, and it can't be enqueued again.
    """
    task = await queue.worker.registry["double"].enqueue(1)
    await queue.redis.set(queue.worker.task_key + task.id, "damaged")

    assert ("set SECRET_KEY_PREVIOUS to the SECRET_KEY that it was enqueued with") in [
        cure for _, cure in await reasons(queue, task.id)
    ]
    assert (await find_task(queue, task.id)).note.startswith(
        "The arguments are damaged, or were signed"
    )
    with pytest.raises(TaskError, match="can't be enqueued again: its arguments are not kept"):
        await enqueue_again(queue, task.id)


async def test_a_silent_worker_is_named_with_its_silence(queue: Queue):
    """The reason for a queued task says how long ago the last worker sent a heartbeat."""
    task = await queue.worker.registry["double"].enqueue(1)
    await beat(queue, silent=40)
    assert re.search(r"the last one has been silent for (39|4\d) s", await texts(queue, task.id))


async def test_a_lost_task_waits_for_the_next_worker(queue: Queue):
    """A task is lost if its worker sends no heartbeat, and another worker will take it over."""
    task = await queue.worker.registry["double"].enqueue(1)
    await beat(queue, silent=30)
    started = Started(task.id, "double", started=2000, tries=1, queued=1000)
    await queue.redis.hset(queue.keys.running("w1"), {task.id: dump_record(started)})
    row, _ = await explain(queue, task.id)
    assert row.state is State.LOST
    assert "Its worker w1 sends no heartbeat; another worker" in await texts(queue, task.id)


async def test_a_task_that_is_to_fail_with_another_names_it(queue: Queue):
    """The reason for a queued task is that it fails with the one that it was to follow."""
    first = await queue.worker.registry["double"].enqueue(1).start(delay=60)
    behind = await queue.worker.registry["double"].enqueue(2).start(after=first.id)
    assert await first.abort(timeout=0)
    await beat(queue)
    assert (
        f"It was to follow double {first.id}, and so fails: the next worker that takes it ends it"
    ) in await texts(queue, behind.id)


async def test_a_fallback_that_inherits_a_failed_task_is_not_to_fail(queue: Queue):
    """A fallback with arguments of its own waits for its turn, whatever its task was to follow."""
    double = queue.worker.registry["double"]
    first = await double.enqueue(1).start(delay=60)
    risky = double.enqueue(2).start(after=first.id)
    safe = await risky.otherwise(double)
    assert await risky.abort(timeout=0)
    assert await first.abort(timeout=0)
    await beat(queue, concurrency=2)
    [(text, _)] = await reasons(queue, safe.id)
    assert text.startswith("It waits for its turn")


async def test_full_slots_are_a_reason(queue: Queue):
    """The reason for a queued task is that all slots are in use, or that it waits for its turn."""
    task = await queue.worker.registry["double"].enqueue(1)
    await beat(queue, concurrency=2, running=2)
    assert ("All 2 slots of 1 live worker are in use; 1 wait") in await texts(queue, task.id)
    await beat(queue, concurrency=2, running=1)
    assert "It waits for its turn: 1 in the queue, 2 slots" in await texts(queue, task.id)


async def test_the_lock_of_a_unique_task_has_a_holder(queue: Queue):
    """The reason for a unique task names another task that holds its lock, but not itself."""
    task = await queue.worker.registry["alone"].enqueue()
    for holder in ("another", task.id):
        await queue.redis.set(queue.engine_keys.lock("alone"), holder)
        found = await texts(queue, task.id)
        held = "alone is unique, and another holds its lock: this one would fail at once"
        assert (held in found) == (holder == "another")


async def test_arguments_that_no_longer_fit_have_no_line(queue: Queue):
    """A unique task whose arguments no longer fit its function gets another reason than a line."""
    with using_worker(queue.worker):

        @robust_task(name="charge", unique=Unique(by=("account",), clash="wait"))
        async def charge(account: int) -> None: ...

    task = await charge.enqueue(1)
    call = dump({"f": "charge", "a": (), "k": {"customer": 1}, "t": 1})
    sealed = queue.worker.client.codec.seal(call, Kind.CALL, task.id)
    await queue.redis.set(queue.worker.task_key + task.id, sealed)
    found = await texts(queue, task.id)
    assert "No worker is running on the queue" in found
    assert "is unique" not in found


async def test_at_most_ten_parents_are_named(queue: Queue):
    """The reasons give the number of parents, and name ten with the command that explains each."""
    double = queue.worker.registry["double"]
    first, *more = [
        await double.enqueue(1).start(delay=3600 + number) for number in range(MOST_PARENTS + 1)
    ]
    task = await double.enqueue(2).start(after=[first.id, *(one.id for one in more)])
    few = await double.enqueue(3).start(after=[first.id])

    found = [text for text, _ in await reasons(queue, task.id)]
    assert "It waits for 11 tasks; the first of them:" in found
    assert len([text for text in found if text.startswith("It waits for ")]) == MOST_PARENTS + 1
    assert (f"It waits for double {first.id}", f"vibetuner tasks why {first.id}") in await reasons(
        queue, few.id
    )


async def test_a_task_that_was_due_waits_for_a_worker(queue: Queue):
    """A delayed task that is due is explained: a live worker puts it into the queue."""
    task = await queue.worker.registry["double"].enqueue(1).start(delay=3600)
    await queue.redis.zadd(queue.engine_keys.delayed(queue.worker.priorities[-1]), {task.id: 1000})
    assert "It was due at 1970-01-01 00:00:01 UTC; a live worker puts" in await texts(
        queue, task.id
    )


async def test_a_failed_task_has_its_error_as_the_reason(queue_of: Queue, running):
    """The reason for a failed task is its error, with the command that shows the traceback."""
    worker: TaskWorker = queue_of.worker
    async with running(worker):
        task = await worker.registry["fails"].enqueue()
        await task.result(timeout=30)
        await eventually(lambda: worker.redis.hget(queue_of.keys.ids, task.id))
        [(text, cure)] = await reasons(queue_of, task.id)
    assert text.startswith("It has failed at ")
    assert text.endswith("UTC: ValueError: the till is empty")
    assert cure == f"vibetuner tasks show {task.id}"
