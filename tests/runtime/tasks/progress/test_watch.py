"""Watchers follow a task's progress to its end, over gaps, silences and outages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.sse.event import RESET, Event
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import History
from vibetuner.sse.hub import Hub
from vibetuner.tasks.progress import ProgressState, ProgressStatus, watch_progress
from vibetuner.tasks.progress.state import PROGRESS, read_progress, register_watch, write_progress
from vibetuner.tasks.progress.watch import Step, _newest_step, follow_progress, load_progress
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open


@pytest.fixture
async def queue(worker: TaskWorker) -> AsyncIterator[TaskWorker]:
    """Yield an open queue, without a worker that runs."""

    @worker.task(name="count")
    async def count() -> None: ...

    async with held_open(worker):
        yield worker


async def steps_of(subscriber: Subscriber, seen: list[Step | None]) -> None:
    """Collect the steps of a subscriber in ``seen``."""
    async for step in follow_progress(subscriber):
        seen.append(step)


def test_the_newest_state_counts():
    """The newest state of several events is used, and events of other names are ignored."""
    old = ProgressState(task_id="t", done=1)
    new = ProgressState(task_id="t", done=2, status=ProgressStatus.COMPLETE)
    events = [
        Event(PROGRESS, old.to_json(), "1-0"),
        Event("complete", new.to_json(), "2-0"),
        Event(PROGRESS, "no state", "3-0"),
        Event("news", old.to_json(), "4-0"),
    ]
    step = _newest_step(events)
    assert step is not None
    assert (step.state, step.id) == (new, "2-0")
    assert _newest_step(events[2:]) is None


async def test_a_task_that_redis_has_lost_has_failed(queue: TaskWorker, settings: Settings):
    """A task that the queue no longer knows after two silences is failed for all its watchers."""
    task = await queue.registry["count"].enqueue()
    hub, seen = Hub(), []
    with hub.subscribe(task.id) as subscriber:
        following = asyncio.create_task(steps_of(subscriber, seen))
        await eventually(lambda: seen)
        await queue.redis.delete([queue.task_key + task.id])
        await queue.redis.delete([queue.stream_key + queue.priorities[-1]])

        async def woken() -> bool:
            subscriber.wake()
            state, _ = await read_progress(History(queue.redis, settings), task.id)
            return state is not None and state.is_over

        await eventually(woken)
        state, end = await read_progress(History(queue.redis, settings), task.id)
        assert state is not None
        assert state.status is ProgressStatus.FAILED
        hub.publish(task.id, Event("failed", state.to_json(), end))
        await following
    assert seen[1] is None
    assert seen[-1] is not None
    # The watcher has found the end itself, or got the event, which has another id.
    assert (seen[-1].name, seen[-1].state) == ("failed", state)


async def test_a_running_task_has_not_failed_because_redis_was_emptied(
    queue: TaskWorker, settings: Settings
):
    """A watcher waits on after Redis was emptied, as the worker still reports the end."""
    task = await queue.registry["count"].enqueue()
    history = History(queue.redis, settings)
    hub, seen = Hub(), []
    with hub.subscribe(task.id) as subscriber:
        following = asyncio.create_task(steps_of(subscriber, seen))
        await eventually(lambda: seen)
        found = queue.redis.scan_iter(f"*{settings.redis_key_prefix}*", count=10_000)
        # With one command: the watcher would report a state between two.
        await queue.redis.delete([key async for key in found])
        hub.publish(task.id, Event(RESET, "", hub.next_id()), anew=True)
        await eventually(lambda: len(seen) == 2, what=lambda: f"{seen}, {following}")
        end = ProgressState(task_id=task.id, done=7, status=ProgressStatus.COMPLETE)
        await write_progress(history, end)
        hub.publish(task.id, Event("complete", end.to_json(), hub.next_id()))
        await following
    assert [step.name for step in seen if step] == [PROGRESS, PROGRESS, "complete"]


async def test_a_task_that_expires_as_a_watcher_comes_is_unknown(queue: TaskWorker):
    """A watcher of a task that Redis does not know ends with the state `unknown`."""
    seen: list[Step | None] = []
    with Hub().subscribe("expired") as subscriber:
        await steps_of(subscriber, seen)
    assert [step.name for step in seen if step] == ["unknown"]
    assert seen[0] is not None
    assert seen[0].state.status is ProgressStatus.UNKNOWN


async def test_an_end_that_was_not_published_is_found_after_a_silence(
    queue: TaskWorker, settings: Settings
):
    """A watcher that hears nothing looks for the end itself, and finds the abort."""
    task = await queue.registry["count"].enqueue().start(delay=60)
    hub, seen = Hub(), []
    with hub.subscribe(task.id) as subscriber:
        following = asyncio.create_task(steps_of(subscriber, seen))
        await eventually(lambda: seen)
        await queue.redis.delete([History(queue.redis, settings).keys.progress(task.id)])
        assert await task.abort(0)

        def woken() -> bool:
            subscriber.wake()
            return following.done()

        await eventually(woken)
    assert [step.name for step in seen if step][-1] == "aborted"


async def test_after_a_gap_the_state_is_read_again(queue: TaskWorker, settings: Settings):
    """A watcher reads the stored state again when the relay has missed events."""
    task = await queue.registry["count"].enqueue()
    history = History(queue.redis, settings)
    hub, seen = Hub(), []
    with hub.subscribe(task.id) as subscriber:
        following = asyncio.create_task(steps_of(subscriber, seen))
        await eventually(lambda: seen)
        for status, wanted in ((ProgressStatus.RUNNING, 2), (ProgressStatus.COMPLETE, 3)):
            if status is ProgressStatus.COMPLETE:  # or this would be the end of an earlier task
                await queue.redis.delete([queue.task_key + task.id])
                await queue.redis.delete([queue.stream_key + queue.priorities[-1]])
            await write_progress(history, ProgressState(task_id=task.id, done=7, status=status))
            hub.publish(task.id, Event(RESET, "", hub.next_id()), anew=True)
            await eventually(lambda count=wanted: len(seen) == count)
        await following
    assert [(step.name, step.state.done) for step in seen if step] == [
        (PROGRESS, 0), (PROGRESS, 7), ("complete", 7),
    ]  # fmt: skip


async def test_a_foreign_event_is_no_step(queue: TaskWorker):
    """A project's own event on the same channel is ignored, and a closed stream ends the watch."""
    task = await queue.registry["count"].enqueue()
    hub, seen = Hub(), []
    with hub.subscribe(task.id) as subscriber:
        following = asyncio.create_task(steps_of(subscriber, seen))
        await eventually(lambda: seen)
        hub.publish(task.id, Event("news", json.dumps({"of": "the project"}), hub.next_id()))
        await eventually(lambda: subscriber.index == 1)
        subscriber.close()
        await following
    assert [step.name for step in seen if step] == [PROGRESS]


async def test_a_watcher_that_leaves_during_an_outage_waits_no_longer(queue: TaskWorker):
    """A watcher that waits because Redis refuses it ends when its subscriber is closed."""
    task = await queue.registry["count"].enqueue()
    hub, seen = Hub(), []
    with hub.subscribe(task.id) as subscriber:
        await queue.redis.config_set({"maxmemory": 1})
        try:
            following = asyncio.create_task(steps_of(subscriber, seen))
            await eventually(lambda: subscriber._waiter is not None)
        finally:
            await queue.redis.config_set({"maxmemory": 0})
        subscriber.close()
        await following
    assert [step for step in seen if step and step.state.is_over] == []


async def test_an_end_that_was_not_published_is_published_by_the_next_watcher(
    queue: TaskWorker, settings: Settings
):
    """A watcher takes the end from the task's result if the stored progress is still open.

    An unknown task raises LookupError.
    """
    task = await queue.registry["count"].enqueue().start(delay=3600)
    history = History(queue.redis, settings)
    await register_watch(history, ProgressState(task_id=task.id))
    assert await queue.abort_by_id(task.id, timeout=1) is True
    state = await load_progress(task.id)
    assert state is not None
    assert state.status is ProgressStatus.ABORTED
    assert [one.status for one in [s async for s in watch_progress(task.id)]] == [
        ProgressStatus.ABORTED
    ]
    with pytest.raises(LookupError, match="nobody"):
        await anext(watch_progress("nobody"))


async def test_a_task_whose_result_cannot_be_read_is_unknown(queue: TaskWorker):
    """A damaged or forged result raises nothing; its task has no state, as if it had expired."""
    await queue.redis.set(queue.client.keys.result("t"), "forged")

    assert await load_progress("t") is None
