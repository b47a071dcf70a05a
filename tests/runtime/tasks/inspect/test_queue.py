"""Lookups of a task by the beginning of its id, and of its queue and payload."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.tasks.letters.conftest import keep, make_letter
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import TaskError
from vibetuner.tasks.inspect.actions import abort
from vibetuner.tasks.inspect.queue import Queue, whole_id
from vibetuner.tasks.inspect.why import find_stuck_line
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import using_worker


@pytest.fixture
def without_mongodb(settings: Settings) -> Iterator[None]:
    """Use settings without MongoDB, so that dead letters stay in Redis."""
    with using_settings(settings.model_copy(update={"mongodb_url": None})):
        yield


async def enqueue(queue: Queue, task_id: str, **start: object) -> str:
    task = queue.worker.registry["double"].enqueue(1)
    task.id = task_id
    await (task.start(**start) if start else task)
    return task_id


async def test_the_beginning_of_an_id_is_enough(queue: Queue):
    """Eight characters of an id find a task that is queued, is scheduled or has ended."""
    queued = await enqueue(queue, "aaaaaaaa-queued")
    scheduled = await enqueue(queue, "bbbbbbbb-scheduled", delay=3600)
    ended = await enqueue(queue, "cccccccc-ended", delay=3600)
    assert await abort(queue, ended) is True

    for task_id in (queued, scheduled, ended):
        assert await whole_id(queue, task_id[:8]) == task_id
        assert await whole_id(queue, task_id) == task_id


async def test_the_beginning_is_enough_for_a_task_that_is_in_no_list(
    without_mongodb: None, queue: Queue
):
    """The beginning of an id finds a task that waits for others or in line, or is a letter."""
    with using_worker(queue.worker):

        @robust_task(name="charge", unique=Unique(by=(), clash="wait"))
        async def charge() -> None: ...

    first, second = await charge.enqueue(), await charge.enqueue()
    waiting = await enqueue(queue, "aaaaaaaa-waits", after=second.id)
    letter = make_letter("bbbbbbbb-dead")
    await keep(queue.redis, queue.keys.prefix, letter)

    with using_worker(queue.worker):
        for task_id in (second.id, waiting, letter.task_id):
            assert await whole_id(queue, task_id[:8]) == task_id
    assert first.id != second.id


async def test_the_beginning_of_several_ids_is_refused_with_their_names(queue: Queue):
    """A beginning of several ids raises TaskError with the ids, but a complete id is found."""
    first, second = [await enqueue(queue, f"aaaaaaaa{end}") for end in ("", "-second")]
    assert await whole_id(queue, first) == first
    third = await enqueue(queue, "aaaaaaaa-third", delay=3600)
    with pytest.raises(TaskError, match=f"^2 tasks begin with aaaaaaaa-: {second}, {third}. Type"):
        await whole_id(queue, "aaaaaaaa-")


@pytest.mark.parametrize("text", ["nobodyhasit", "short", "no id at all"])
async def test_an_unknown_beginning_is_taken_as_it_is(queue: Queue, text: str):
    """An unknown beginning is returned unchanged, so that the command reports a missing task."""
    await enqueue(queue, "aaaaaaaa-queued")
    assert await whole_id(queue, text) == text


async def test_a_running_task_is_found_by_the_beginning_of_its_id(queue_of: Queue, running):
    """A running task is found by the entry that its worker has made in the journal."""
    async with running(queue_of.worker):
        task = await queue_of.worker.registry["waits"].enqueue()
        await eventually(queue_of.running)
        assert await whole_id(queue_of, task.id[:8]) == task.id


async def test_the_queue_of_a_task_is_found_among_the_oldest(queue: Queue):
    """queue_of() names the queue of a task, and is empty for an unknown one.

    payloads() reads nothing for no ids.
    """
    task_id = await enqueue(queue, "aaaaaaaa-queued")
    assert await queue.queue_of(task_id) == queue.worker.priorities[-1]
    assert await queue.queue_of("nobody") == ""
    assert await queue.payloads([]) == []
    [payload] = await queue.payloads([task_id])
    assert (payload["f"], payload["a"]) == ("double", (1,))


async def test_a_line_whose_record_cannot_be_read_is_not_reported(queue: Queue):
    """A line is not reported as stuck if nobody can read the record of the task that it follows."""
    keys = queue.engine_keys
    await queue.redis.hset(keys.holder("charge"), {"holder": "a"})
    assert await find_stuck_line(queue.redis, keys, "charge") is None
    await queue.redis.hset(keys.unique, {"a": "no json"})
    assert await find_stuck_line(queue.redis, keys, "charge") is None
    await queue.redis.hset(keys.unique, {"a": '["charge", "normal", "0"]'})
    assert await find_stuck_line(queue.redis, keys, "charge") == ("a", 0)
