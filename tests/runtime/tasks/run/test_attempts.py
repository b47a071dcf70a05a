"""Attempts, each of which is cut off once, has its own context, and may be superseded."""

from __future__ import annotations

import asyncio
import decimal
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.redis.keys import Keys
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

colour: ContextVar[str] = ContextVar("colour", default="none")


async def test_a_superseded_attempt_is_discarded(
    worker: TaskWorker, running: Running, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """A superseded attempt stores neither a result nor a dead letter, and its task stays."""
    go = asyncio.Event()
    with using_worker(worker):

        @robust_task(max_retries=1, name="slow")
        async def slow() -> None:
            await go.wait()
            raise ValueError("too late")

    async with running(worker):
        task = await slow.enqueue()
        await eventually(lambda: worker.running() == 1)
        stream = worker.stream_key + worker.priorities[-1]
        (entry,) = await worker.redis.xrange(stream)
        # For 0.9 s after a claim, its worker does not check that it still holds.
        await asyncio.sleep(1)
        await worker.redis.xclaim(stream, "workers", "another", 0, [entry.identifier])
        go.set()
        await eventually(lambda: worker.counters["superseded"] == 1)
        assert await worker.redis.exists([worker.results_key + task.id]) == 0
        assert await worker.redis.xlen(Keys(settings.redis_key_prefix).letters) == 0
        assert await worker.redis.exists([worker.task_key + task.id]) == 1

    assert "another worker took over slow; result discarded" in caplog.messages


@pytest.mark.parametrize("by", ["time limit", "abort", "stop"])
async def test_a_function_is_cut_off_once(stand_in, settings: Settings, running: Running, by: str):
    """A timeout, an abort or a stop cancels a function once, so that its cleanup can await."""
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"worker_grace_period": 0}))
    cleaned: list[str] = []
    begun = asyncio.Event()

    @worker.task(name="slow", timeout=timedelta(seconds=0.2) if by == "time limit" else None)
    async def slow() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cleaned.append("cut")
            for _ in range(3):
                await asyncio.sleep(0.05)
            cleaned.append("cleaned up")
            raise

    async with running(worker):
        task = await slow.enqueue()
        await begun.wait()
        if by == "abort":
            assert await task.abort(timeout=30)
        elif by == "time limit":
            result = await task.result(timeout=30)
            assert isinstance(result.exception, TimeoutError)

    assert cleaned == ["cut", "cleaned up"]
    if by == "stop":
        async with worker:
            assert str(await task.status()) == "queued"


@pytest.mark.parametrize("precision", [None, 9])
async def test_every_attempt_has_a_context_of_its_own(
    worker: TaskWorker, running: Running, precision: int | None
):
    """A context variable or decimal precision that a task sets does not reach the next task."""
    own = decimal.Context(prec=precision) if precision else None
    seen: list[tuple[str, int]] = []

    def change() -> None:
        seen.append((colour.get(), decimal.getcontext().prec))
        colour.set("red")
        decimal.getcontext().prec = 3

    async def change_async() -> None:
        change()

    tasks = [worker.task(name="sync")(change), worker.task(name="async")(change_async)]
    with decimal.localcontext(own) if own else nullcontext():
        async with running(worker):
            for task in [*tasks, *tasks]:
                await (await task.enqueue()).result(timeout=30)

    assert set(seen) == {("none", precision or decimal.DefaultContext.prec)}
    assert len(seen) == 4


async def test_a_claimed_message_without_a_slot_is_requeued(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A prefetched message without a slot is requeued, and runs in another worker as try 1."""
    go = asyncio.Event()
    held: list[TaskWorker] = []
    second = TaskWorker(settings)

    def hold(here: TaskWorker) -> Any:
        async def holding() -> None:
            held.append(here)
            await go.wait()

        return here.task(name="hold")(holding)

    @worker.task(name="quick")
    async def quick() -> None: ...

    task, _ = hold(worker), hold(second)
    many = 3 * worker.concurrency
    async with running(worker):
        tasks = [task.enqueue() for _ in range(many)]
        await worker.enqueue_many([*(quick.enqueue() for _ in range(600)), *tasks])
        await eventually(lambda: len(held) == worker.concurrency)
        async with running(second):
            try:
                await eventually(lambda: held.count(second) == second.concurrency)
            finally:
                go.set()
            results = [await one.result(timeout=30) for one in tasks]

    assert [result.tries for result in results] == [1] * many


async def test_a_claim_costs_no_attempt_until_it_runs(worker: TaskWorker):
    """A claimed message counts as a try only when it begins, and not if its claim is stale."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        task = await noop.enqueue()
        functions, keys = worker.client.functions, worker.client.keys
        stream = keys.stream("normal")
        await worker.redis.xgroup_create(stream, "workers", "0", mkstream=True)
        head = ["workers", worker.id, 60_000, 900]
        now, *message = await functions.call("claim", (keys.queue,), [*head, 1, 1, "normal", 1])
        assert message[2] == task.id.encode()
        assert message[5] == b""
        assert await worker.redis.exists([keys.retry(task.id)]) == 0
        begun = ["normal", message[1], task.id, 1, now]
        await functions.call("claim", (keys.queue,), [*head, 0, 0, *begun])
        assert await worker.redis.get(keys.retry(task.id)) == "1"
        await worker.redis.xclaim(stream, "workers", "another", 0, [message[1].decode()])
        stale = ["normal", message[1], task.id, 2, now - 5000]
        await functions.call("claim", (keys.queue,), [*head, 0, 0, *stale])
        assert await worker.redis.get(keys.retry(task.id)) == "1"


async def test_messages_of_a_stopping_worker_are_free_for_others_at_once(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A worker that stops requeues its prefetched messages, and they run elsewhere as try 1."""
    go = asyncio.Event()
    begun: list[int] = []
    second = TaskWorker(settings)

    @worker.task(name="wait")
    async def wait() -> None:
        begun.append(1)
        await go.wait()

    @second.task(name="wait")
    async def wait_there() -> int:
        return wait_there.context.tries

    async with running(worker):
        tasks = [wait.enqueue() for _ in range(40)]
        await worker.enqueue_many(tasks)
        await eventually(lambda: len(begun) == worker.concurrency)
        worker.stop()
        async with running(second):
            results = [await second.result_by_id(task.id, timeout=30) for task in tasks[-5:]]
        go.set()

    assert [result.tries for result in results] == [1] * 5


@pytest.mark.parametrize("failing", ["raises SystemExit", "is cancelled", "does not return"])
async def test_on_failure_costs_no_letter(worker: TaskWorker, running: Running, failing: str):
    """on_failure is called once, and the dead letter is kept though it raises, is cut or hangs."""
    called: list[str] = []

    async def on_failure(name: str, _id: str, _error: Exception) -> None:
        called.append(name)
        if failing == "raises SystemExit":
            raise SystemExit(1)
        if failing == "is cancelled":
            raise asyncio.CancelledError
        await asyncio.sleep(60)

    with using_worker(worker):

        @robust_task(max_retries=1, name="fails", on_failure=on_failure)
        async def fails() -> None:
            raise ValueError("no")

    async with running(worker):
        task = await fails.enqueue()
        await eventually(lambda: bool(called))
        if failing == "does not return":
            worker.stop()
    async with worker:
        assert not (await task.result(timeout=30)).success
        assert await worker.redis.hexists(worker.client.keys.letter_places, task.id)
    assert called == ["fails"]


async def test_an_abort_does_not_cut_on_failure_short(worker: TaskWorker, running: Running):
    """An abort of a task that has failed leaves its on_failure alone, and its end stays."""
    began, go, returned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def on_failure(_name: str, _id: str, _error: Exception) -> None:
        began.set()
        await go.wait()
        returned.set()

    with using_worker(worker):

        @robust_task(max_retries=1, name="fails", on_failure=on_failure)
        async def fails() -> None:
            raise ValueError("no")

    async with running(worker):
        task = await fails.enqueue()
        await began.wait()
        worker.abort_tasks({task.id})
        await asyncio.sleep(0)
        go.set()
        result = await task.result(timeout=30)
        assert str(result.exception) == "no"
    assert returned.is_set()


async def test_a_stop_cuts_the_on_failure_of_a_task_that_timed_out(
    worker: TaskWorker, running: Running, caplog: pytest.LogCaptureFixture
):
    """A stop cuts an on_failure short, also after the task itself was cut at its time limit."""
    began = asyncio.Event()

    async def on_failure(_name: str, _id: str, _error: Exception) -> None:
        began.set()
        await asyncio.sleep(60)

    with using_worker(worker):

        @robust_task(max_retries=1, name="slow", on_failure=on_failure, timeout=0.01)
        async def slow() -> None:
            await asyncio.sleep(60)

    worker.grace_period = 0
    async with running(worker):
        task = await slow.enqueue()
        await began.wait()
        worker.stop()
    async with worker:
        assert isinstance((await task.result(timeout=30)).exception, TimeoutError)
    assert "on_failure of slow was cut short by a stop" in caplog.text
