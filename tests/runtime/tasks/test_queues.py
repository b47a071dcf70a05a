"""Several queues: where a task goes, which worker reads it, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaq.types import StreaqCancelled

from tests.waiting import eventually
from vibetuner.app import VibetunerApp
from vibetuner.cli.checks.redis import _sizes, judge_queues
from vibetuner.config import Settings, using_settings
from vibetuner.errors import CommandError, TaskError
from vibetuner.redis.keys import JournalKeys, Keys
from vibetuner.tasks.dead_letters import list_letters, retry
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.inspect.why import explain
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.registry import find_problems
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker
from vibetuner.testing import held_open

from .conformance.conftest import at_work, drain, soon

NAMES = ["critical", "default", "bulk"]


@pytest.fixture
def queue(stand_in: Callable[..., Any], settings: Settings) -> TaskWorker:
    """Return a worker of a project with three queues, which runs one task at a time."""
    stand_in()
    return TaskWorker(
        settings.model_copy(update={"worker_concurrency": 1}), lambda: VibetunerApp(queues=NAMES)
    )


def record(worker: TaskWorker, **options: Any) -> tuple[Any, list[str]]:
    """Register a task that notes its argument, and return it with its notes."""
    seen: list[str] = []

    @worker.task(name="note", **options)
    async def note(text: str) -> None:
        seen.append(text)

    return note, seen


async def lengths(worker: TaskWorker) -> dict[str, int]:
    """Return the number of messages in each stream."""
    return {name: await worker.redis.xlen(worker.stream_key + name) for name in NAMES}


async def test_a_task_goes_into_the_queue_that_is_named(queue: TaskWorker):
    """The call names the queue, or else the decorator; otherwise the queue is the default one."""
    note, _ = record(queue, queue="bulk")
    plain = queue.task(name="plain")(asyncio.sleep)
    async with queue:
        await note.enqueue("a")
        await note.enqueue("b").start(priority="critical")
        await queue.enqueue_many([note.enqueue("c"), plain.enqueue(0)])

        assert await lengths(queue) == {"critical": 1, "default": 1, "bulk": 2}


async def test_runs_of_a_cron_task_do_not_pile_up_in_a_queue_that_nobody_reads(queue: TaskWorker):
    """A worker schedules a cron task only if it reads the task's queue."""
    for name in ("critical", "bulk"):
        queue.cron("0 0 1 1 *", name=name, queue=name)(lambda: asyncio.sleep(0))

    async def due_again(name: str) -> bool:
        return (await queue.redis.zscore(queue.cron_schedule_key, name) or 0) > 2000

    async with queue:
        queue.order = ReadOrder(["critical"])
        async with at_work(queue):  # it declares both
            assert await due_again("bulk")
            await queue.redis.zadd(queue.cron_schedule_key, {"bulk": 1000, "critical": 2000})
            await eventually(lambda: due_again("critical"))
        async with at_work(queue):
            assert not await due_again("bulk")
        queue.order = ReadOrder(["bulk"])
        async with at_work(queue):
            await eventually(lambda: due_again("bulk"))


async def test_an_unknown_queue_is_refused_with_the_names(queue: TaskWorker):
    """An unknown queue is refused at the enqueue and at a worker's start, with all names.

    A value that can't be a name is refused at the decoration.
    """
    note, _ = record(queue, queue="bluk")
    async with queue:
        with pytest.raises(TaskError, match="note: .* no queue 'bluk'. Take one of critical, "):
            await note.enqueue("a")
        with pytest.raises(TaskError, match="Take one of critical, default, bulk"):
            await note.enqueue("a").start(priority="x")
        assert sum((await lengths(queue)).values()) == 0

    (problem, *_) = [one for one in find_problems(VibetunerApp(), queue) if "'bluk'" in one]
    assert "test_queues.py:" in problem
    assert "Take one of critical, default, bulk, or add it to queues=" in problem
    with pytest.raises(TypeError, match="queue= takes the name of a queue, not 3"):
        queue.task(name="other", queue=3)(asyncio.sleep)


@pytest.mark.parametrize("names", [["a b"], [""], ["a", "a"], ["x:1"], [3], "bulk"])
def test_the_app_refuses_invalid_queue_names(names: Any):
    """VibetunerApp raises TypeError for wrong or repeated names when tune.py is loaded."""
    with pytest.raises(TypeError, match="queues= takes"):
        VibetunerApp(queues=names)


async def claim(worker: TaskWorker, order: ReadOrder, count: int) -> list[str]:
    """Claim messages as a worker does, and return the queue of each."""
    shares = order.divide(count)
    values = ["workers", "me", 60_000, 900, count, len(shares) // 2, *shares]
    reply = await worker.client.functions.call("claim", (worker.client.keys.queue,), values)
    return [queue.decode() for queue in reply[1::7]]


@pytest.fixture
async def backlog(queue: TaskWorker) -> AsyncIterator[TaskWorker]:
    """Yield the worker with twenty messages in each queue, those of the lowest first."""
    note, _ = record(queue)
    async with held_open(queue):
        for name in reversed(NAMES):
            await queue.redis.xgroup_create(queue.stream_key + name, "workers", "0", mkstream=True)
            await queue.enqueue_many([note.enqueue("").start(priority=name) for _ in range(20)])
        yield queue


async def test_higher_queues_come_first(backlog: TaskWorker):
    """A lower queue is read when those before it are empty."""
    order = ReadOrder(NAMES)

    assert await claim(backlog, order, 30) == 20 * ["critical"] + 10 * ["default"]
    assert await claim(backlog, order, 30) == 10 * ["default"] + 20 * ["bulk"]


async def test_weights_keep_bulk_work_going(backlog: TaskWorker):
    """Each claim is divided by weight, and what one queue leaves unused goes to the others."""
    order = ReadOrder.parse("critical:3,bulk:1")

    assert await claim(backlog, order, 16) == 12 * ["critical"] + 4 * ["bulk"]
    ones = [tuple(await claim(backlog, order, 1)) for _ in range(4)]
    assert Counter(ones) == {("critical",): 3, ("bulk",): 1}
    assert Counter(await claim(backlog, order, 100)) == {"critical": 5, "bulk": 15}


async def test_a_worker_reads_its_own_queues_only(queue: TaskWorker):
    """A worker runs tasks of the queues that it reads, and leaves messages of another queue."""
    note, seen = record(queue)
    queue.order = ReadOrder.parse("critical,default")
    async with at_work(queue):
        for name in NAMES:
            await note.enqueue(name).start(priority=name)
        await eventually(lambda: len(seen) == 2)
        await note.enqueue("late").start(priority="default", delay=soon(0.01))
        await eventually(lambda: len(seen) == 3)

        assert (await lengths(queue))["bulk"] == 1
    assert sorted(seen) == ["critical", "default", "late"]


async def test_delayed_retried_and_repeated_tasks_stay_in_their_queue(queue: TaskWorker):
    """A task stays in its queue if it is delayed, retried or repeated, or waits for another."""
    queue.order = ReadOrder.parse("bulk,default")
    places: list[str] = []
    with using_worker(queue):

        @robust_task(backoff_base=0.01, name="flaky", queue="bulk")
        async def flaky() -> None:
            places.append(f"{flaky.context.priority} {flaky.context.tries}")
            if flaky.context.tries == 1:
                raise ValueError("again")

        follow = queue.task(name="follow", queue="critical")(asyncio.sleep)
        stay = queue.task(name="stay", queue="bulk")(asyncio.sleep)
        tick = queue.cron("0 0 1 1 *", name="tick", queue="critical")(lambda: asyncio.sleep(0))

    async with at_work(queue):
        first = await flaky.enqueue().start(delay=soon(0.01))
        after = await follow.enqueue(0).start(after=first.id)
        await eventually(lambda: len(places) == 2)
        await eventually(lambda: queue.redis.xlen(queue.stream_key + "critical"))
        (entry,) = await queue.redis.xrange(queue.stream_key + "critical")
        assert entry.field_values["task_id"] == after.id

        repeated = await stay.enqueue(0).start(schedule="0 0 1 1 *", priority="default")
        await queue.redis.delete([queue.queue_key + "default"])
        await queue.redis.zadd(queue.cron_schedule_key, {repeated.id: time.time() * 1000})
        await eventually(lambda: queue.redis.zcard(queue.queue_key + "default"))
        assert await queue.redis.zcard(queue.queue_key + "critical") == 1, tick
        assert await repeated.unschedule()
        assert not await queue.redis.exists([f"{queue.prefix}:cron:queues"])
    assert places == ["bulk 1", "bulk 2"]


async def test_a_dead_letter_is_retried_in_its_own_queue(queue: TaskWorker, settings: Settings):
    """A dead letter is retried in its queue, or in the default one if its queue is gone."""
    without = settings.model_copy(update={"mongodb_url": None})
    with using_settings(without), using_worker(queue):

        @robust_task(max_retries=1, name="broken")
        async def broken() -> None:
            raise ValueError("no")

        async with queue:
            for name in ("bulk", "critical"):
                await broken.enqueue().start(priority=name)
        await drain(queue)
        async with queue:
            found = {one.priority: one for one in (await list_letters()).letters}
            assert set(found) == {"bulk", "critical"}
            await retry(found["bulk"])
            assert await lengths(queue) == {"critical": 0, "default": 0, "bulk": 1}
            queue.priorities = ["default", "bulk"]
            await retry(found["critical"])
            assert await lengths(queue) == {"critical": 0, "default": 1, "bulk": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "takes names with commas between"),
        ("a,,b", "takes names with commas between"),
        ("a,a", "each once"),
        ("a:1,b", "a weight for each queue or for none"),
        ("a:0,b:1", "whole weights from 1 to 1000, not '0'"),
        ("a:x", "not 'x'"),
        ("a:-1", "not '-1'"),
        ("bluk", "'bluk', which tune.py does not declare. Take one of "),
    ],
)
def test_an_invalid_order_is_refused(text: str, message: str):
    """A wrong value for the order of queues raises CommandError with the reason."""
    with pytest.raises(CommandError, match=message):
        ReadOrder.parse(text).check(NAMES)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=5),
    st.lists(st.integers(1, 128), min_size=1, max_size=60),
)
def test_shares_add_up_and_follow_the_weights(weights: list[int], counts: list[int]):
    """The shares of a queue, over many claims, are within a few messages of its weight."""
    names = [f"q{n}" for n in range(len(weights))]
    order = ReadOrder(names, weights)
    given_to: Counter[str] = Counter()
    for count in counts:
        plan = order.divide(count)
        shares, rest = plan[: -2 * len(names)], plan[-2 * len(names) :]
        assert rest == [part for name in names for part in (name, count)]
        assert sum(shares[1::2]) == count
        given_to.update(dict(zip(shares[::2], shares[1::2], strict=True)))

    for name, weight in zip(names, weights, strict=True):
        assert abs(given_to[name] - sum(counts) * weight / sum(weights)) < len(names) + 1


async def test_a_queue_that_nobody_reads_is_reported(queue: TaskWorker, settings: Settings):
    """The reasons, the view of the queues and the doctor report a queue that no worker reads.

    A task of another queue does not name it.
    """
    note, _ = record(queue)
    queue.order = ReadOrder.parse("critical")
    async with at_work(queue):
        look = Queue(queue, JournalKeys(settings.redis_key_prefix))
        queued = await note.enqueue("a").start(priority="bulk")
        delayed = await note.enqueue("b").start(priority="bulk", delay=3600)
        other = await note.enqueue("c").start(priority="critical", delay=3600)
        await eventually(look.workers)
        workers = await look.workers()
        found = {one.name: one for one in (await look.counts(workers)).queues}
        reasons = {
            task.id: " ".join(one.text for one in (await explain(look, task.id))[1])
            for task in (queued, delayed, other)
        }
        live = settings.model_copy(update={"environment": "production"})
        (finding,) = judge_queues({"bulk": 1}, workers, live)

    assert [workers[0].beat.queues, *found] == [("critical",), *NAMES]
    assert (found["bulk"].queued, found["bulk"].scheduled, found["bulk"].is_unread) == (1, 1, True)
    assert not found["critical"].is_unread
    assert "the queue bulk, which no live worker reads" in reasons[queued.id]
    assert "the queue bulk, which no live worker reads" in reasons[delayed.id]
    assert "no live worker" not in reasons[other.id]
    assert finding.level == "error"
    assert finding.text == "no live worker reads the queue bulk, which holds 1 task"
    assert "--queues bulk" in finding.cure


async def test_a_removed_queue_is_reported(queue: TaskWorker, settings: Settings):
    """The doctor advises to declare a removed queue again, and its tasks can be aborted."""
    note, _ = record(queue)
    async with at_work(queue):
        delayed = await note.enqueue("a").start(priority="bulk", delay=3600)
        changed = TaskWorker(settings, lambda: VibetunerApp(queues=["critical"]))
        changed.order = ReadOrder.parse("critical")
        assert changed.priorities == ["critical"]
        async with changed:
            look = Queue(changed, JournalKeys(settings.redis_key_prefix))
            await eventually(look.workers)
            judged = judge_queues({"gone": 1}, await look.workers(), settings, declared=NAMES)
            assert await changed.abort_by_id(delayed.id, timeout=30)

    assert [one.cure.partition(": ")[0] for one in judged] == ["declare it again until it is empty"]


async def test_a_removed_queue_is_known_for_good(queue: TaskWorker, settings: Settings):
    """Tasks left in a removed queue are reported, even weeks after the last worker that read it.

    During a rolling upgrade, a process with the older code still enqueues there.
    """
    note, _ = record(queue)
    async with at_work(queue):
        pass
    async with queue:
        left = await note.enqueue("a").start(priority="bulk")
        await queue.redis.delete([Keys(settings.redis_key_prefix).journal.queues])  # it expires
        changed = TaskWorker(settings, lambda: VibetunerApp(queues=["critical", "default"]))
        record(changed)
        async with at_work(changed):
            look = Queue(changed, JournalKeys(settings.redis_key_prefix))
            await eventually(look.workers)
            found = {one.name: one for one in (await look.counts()).queues}
            reasons = " ".join(one.text for one in (await explain(look, left.id))[1])
            sizes = await _sizes(changed.redis, settings, ["critical", "default"])

    assert found["bulk"].is_unread
    assert "the queue bulk, which no live worker reads" in reasons
    assert sizes["bulk"] == 1


async def test_what_another_task_left_outlasts_a_queue_that_nobody_reads(queue: TaskWorker):
    """A follower in a queue that nobody reads for weeks still fails with the task before it.

    A fallback there still takes over the result, and an abort is not forgotten.
    """

    @queue.task(name="work")
    async def work(text: str) -> str:
        if text == "bad":
            raise ValueError(text)
        return text

    def unread(call: Any) -> Any:
        return call.start(priority="bulk")

    queue.order = ReadOrder.parse("default")
    bad, good = work.enqueue("bad"), work.enqueue("good")
    follower, fallback = unread(work.enqueue("follows").start(after=[bad])), unread(good ^ work)
    async with queue:
        await follower
        await fallback
        keys, redis = queue.client.keys, queue.redis
        async with at_work(queue):
            await eventually(lambda: queue.counters["completed"] == 1)
            await eventually(lambda: queue.counters["failed"] == 1)
        assert await redis.smembers(keys.failing) == {follower.id}
        assert await redis.pttl(keys.failing) == -1
        for kept in (keys.blamed(follower.id), keys.fallback(fallback.id)):
            assert await redis.pttl(kept) > 300 * 86_400_000
        aborted = await unread(work.enqueue("aborted"))
        assert await aborted.abort(timeout=0) is False  # marked
        assert await redis.pttl(keys.aborted) > 300 * 86_400_000
        await redis.srem(keys.aborted, [follower.id])

        queue.order = ReadOrder(NAMES)
        async with at_work(queue):
            failed = await follower.result(timeout=30)
            assert (await fallback.result(timeout=30)).result == "good"
            assert isinstance((await aborted.result(timeout=30)).exception, StreaqCancelled)
        assert str(failed.exception).endswith(f"It was to follow work {bad.id}")
        assert not await redis.exists(
            [keys.failing, keys.blamed(follower.id), keys.fallback(fallback.id)]
        )


@pytest.mark.parametrize("text", ["critical, bulk", "critical:6, bulk:1"])
def test_an_order_is_shown_as_it_is_typed(text: str):
    """The text of an order, as in logs and errors, is the one that was parsed."""
    assert str(ReadOrder.parse(text)) == text
