"""Unique tasks, and calls that clash with a task that waits or runs."""

from __future__ import annotations

import asyncio
import hmac
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from streaq import StreaqError
from streaq.types import StreaqCancelled

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.errors import TaskError
from vibetuner.tasks.attempt import Attempt
from vibetuner.tasks.client.queue import SIGN_AGAIN
from vibetuner.tasks.dead_letters import Cause, get, open_dead_letters, retry
from vibetuner.tasks.observers import Observers
from vibetuner.tasks.payload import Kind, signing_keys
from vibetuner.tasks.robust import RetryLater, Unique, robust_cron, robust_task
from vibetuner.tasks.run.execute import Executor
from vibetuner.tasks.unique import Clash
from vibetuner.tasks.worker import TaskWorker, using_worker


class Stage:
    """A worker's unique task, which runs until the test lets it end."""

    def __init__(self, worker: TaskWorker, unique: Unique | bool, **options: Any) -> None:
        self.worker = worker
        self.ran: list[tuple[int, str]] = []
        self.go = asyncio.Event()
        with using_worker(worker):

            @robust_task(name="charge", unique=unique, **options)
            async def charge(account_id: int, note: str = "") -> str:
                self.ran.append((account_id, note))
                await self.go.wait()
                return note

        self.charge: Any = charge

    async def keys(self) -> list[str]:
        """Return the keys of the queue that unique tasks have."""
        match = f"{self.worker.client.keys.queue}:*"
        found = [str(key) async for key in self.worker.redis.scan_iter(match, count=10_000)]
        return [key for key in found if ":unique" in key or ":line" in key or ":lock:" in key]


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_skipped_call_is_answered_with_the_task_that_is_there(
    worker: TaskWorker, running: Running, is_running: bool
):
    """A skipped call has the id of the task that waits or runs.

    A call for another account is no clash.
    """
    stage = Stage(worker, Unique(by=("account_id",), clash="skip"))
    async with worker:
        first = await stage.charge.enqueue(1, "first")
        async with running(worker) if is_running else worker:
            if is_running:
                await eventually(lambda: bool(stage.ran))
            same = await stage.charge.enqueue(note="again", account_id=1)
            other = await stage.charge.enqueue(2, "other")
            assert (same.id == first.id, other.id == first.id) == (True, False)
            if is_running:
                stage.go.set()
        async with running(worker):
            stage.go.set()
            assert [(await one.result(timeout=30)).result for one in (same, other)] == [
                "first",
                "other",
            ]
            after = await stage.charge.enqueue(1, "after")
            assert (await after.result(timeout=30)).result == "after"
    async with worker:
        assert await stage.keys() == []
    assert sorted(stage.ran) == [(1, "after"), (1, "first"), (2, "other")]


async def test_calls_wait_for_their_turn_without_a_slot(worker: TaskWorker, running: Running):
    """Calls in line take no slot, and run in the order in which they were enqueued."""
    stage = Stage(worker, Unique(clash="wait"))
    with using_worker(worker):

        @worker.task(name="other")
        async def other() -> str:
            return "ran"

    async with running(worker):
        calls = [await stage.charge.enqueue(n, str(n)) for n in range(40)]
        await eventually(lambda: bool(stage.ran))
        assert worker.running() == 1
        assert (await (await other.enqueue()).result(timeout=30)).result == "ran"
        assert await calls[7].abort()  # one that waits in line ends at once
        assert isinstance((await calls[7].result(timeout=30)).exception, StreaqCancelled)
        stage.go.set()
        for n, call in enumerate(calls):
            if n != 7:
                assert (await call.result(timeout=30)).result == str(n)
        assert await stage.keys() == []
    assert [n for n, _ in stage.ran] == [n for n in range(40) if n != 7]


async def test_a_task_keeps_its_turn_between_its_tries(worker: TaskWorker, running: Running):
    """The next task in line starts after the end of the first, not after its failed try."""
    ran: list[int] = []
    with using_worker(worker):

        @robust_task(name="flaky", max_retries=2, unique=Unique(clash="wait"))
        async def flaky(n: int) -> None:
            ran.append(n)
            raise RetryLater(after=0.05)

    async with running(worker):
        calls = [await flaky.enqueue(n) for n in range(3)]
        for call in calls:
            assert not (await call.result(timeout=30)).success
    assert ran == [0, 0, 1, 1, 2, 2]


async def test_a_newer_call_replaces_one_that_waits(worker: TaskWorker, running: Running):
    """A newer call takes the id and the message of the one that waits."""
    stage = Stage(worker, Unique(by="all", clash="replace"))
    stage.go.set()
    async with worker:
        first = await stage.charge.enqueue(1, "a")
        same = await stage.charge.enqueue(1, "a")
        assert same.id == first.id
        assert await worker.redis.xlen(worker.stream_key + "normal") == 1
    async with running(worker):
        assert (await same.result(timeout=30)).result == "a"
    assert stage.ran == [(1, "a")]


async def test_a_delay_restarts_with_each_newer_call(worker: TaskWorker, running: Running):
    """Each newer call replaces the arguments and the delay, so only the last of a burst runs."""
    stage = Stage(worker, Unique(by=("account_id",), clash="replace"))
    stage.go.set()
    async with running(worker):
        first = await stage.charge.enqueue(1, "1").start(delay=60)
        due = await worker.redis.zscore(worker.queue_key + "normal", first.id)
        second = await stage.charge.enqueue(1, "2").start(delay=120)
        later = await worker.redis.zscore(worker.queue_key + "normal", first.id)
        assert second.id == first.id
        assert later - due > 50_000
        last = await stage.charge.enqueue(1, "3")
        assert (await first.result(timeout=30)).result == "3"
        assert await worker.redis.zcard(worker.queue_key + "normal") == 0
        assert (last.id, await stage.keys()) == (first.id, [])
    async with worker:  # a newer call moves a message back to the delayed tasks
        waiting = await stage.charge.enqueue(1, "4")
        assert (await stage.charge.enqueue(1, "5").start(delay=0.5)).id == waiting.id
        assert await worker.redis.xlen(worker.stream_key + "normal") == 0
    async with running(worker):
        assert (await waiting.result(timeout=30)).result == "5"
    assert stage.ran == [(1, "3"), (1, "5")]


async def test_a_newer_call_changes_the_time_of_the_one_in_line(
    worker: TaskWorker, running: Running
):
    """A newer call in line has the new time, which views of the queue show."""
    stage = Stage(worker, Unique(clash="replace"))
    async with running(worker):
        await stage.charge.enqueue(1, "runs")
        await eventually(lambda: bool(stage.ran))
        keys, redis = worker.client.keys, worker.redis
        waiting = await stage.charge.enqueue(1, "waits").start(delay=60)
        early = await redis.zscore(keys.in_line, waiting.id)
        newer = await stage.charge.enqueue(1, "newer").start(delay=3600)
        late = await redis.zscore(keys.in_line, waiting.id)
        assert newer.id == waiting.id
        assert late - early > 3_000_000
        stage.go.set()


async def test_a_newer_call_replaces_one_that_waits_for_its_retry(
    worker: TaskWorker, running: Running
):
    """A newer call of a task that waits for its retry runs at once, as try 1."""
    with using_worker(worker):

        @robust_task(name="charge", unique=Unique(clash="replace"))
        async def charge(note: str) -> int:
            if note == "old":
                raise RetryLater(after=60)
            return int(charge.context.tries)

    async with running(worker):
        old = await charge.enqueue("old")
        while await worker.redis.zscore(worker.queue_key + "normal", old.id) is None:
            pass
        newer = await charge.enqueue("newer")
        assert newer.id == old.id
        assert (await newer.result(timeout=30)).result == 1


async def test_an_old_message_of_a_task_that_was_delayed_again_is_dropped(
    worker: TaskWorker, running: Running
):
    """A second message of a task that was delayed anew is dropped, and the task runs when due.

    A worker of streaq's own may leave such a message.
    """
    stage = Stage(worker, Unique(clash="replace"))
    stage.go.set()
    async with worker:
        call = await stage.charge.enqueue(1, "early")
        stream = worker.stream_key + "normal"
        await worker.redis.xadd(stream, {"task_id": call.id, "enqueue_time": "1700000000000"})
        due = time.monotonic() + 0.5
        await stage.charge.enqueue(1, "late").start(delay=0.5)
    async with running(worker):
        result = await call.result(timeout=30)
        assert (result.result, result.tries) == ("late", 1)
        assert time.monotonic() >= due - 0.01  # the queue counts milliseconds
        assert await worker.redis.xlen(stream) == 0
    assert stage.ran == [(1, "late")]


async def test_a_newer_call_replaces_one_that_was_claimed(worker: TaskWorker, running: Running):
    """A newer call withdraws a claimed message, and runs with its own arguments and first try."""
    stage = Stage(worker, Unique(clash="replace"))
    async with worker:
        call = await stage.charge.enqueue(1, "claimed")
        functions, keys = worker.client.functions, worker.client.keys
        await worker.redis.xgroup_create(keys.stream("normal"), "workers", "0")
        await worker.redis.set(keys.retry(call.id), "2")  # two attempts have failed
        head = ["workers", worker.id, 60_000, 900]
        now, *claimed = await functions.call("claim", (keys.queue,), [*head, 1, 1, "normal", 1])
        message, tries = claimed[1], int(claimed[5]) + 1
        assert tries == 3
        await stage.charge.enqueue(1, "newer")
        # The worker counts and begins what it has claimed.
        count = ["normal", message, call.id, tries, now]
        await functions.call("claim", (keys.queue,), [*head, 0, 0, *count])
        begin = ["charge", call.id, "normal", message, now, "workers", worker.id, 900]
        assert await functions.call("hold", (keys.queue,), begin) is None
        late = [*begin[:4], now - 5000, "workers", "another", 900]
        assert await functions.call("hold", (keys.queue,), late) is None
        assert await worker.redis.xlen(keys.stream("normal")) == 1
    stage.go.set()
    async with running(worker):
        result = await call.result(timeout=10)
        assert (result.result, result.tries) == ("newer", 1)
    assert stage.ran == [(1, "newer")]


async def test_a_newer_call_does_not_replace_one_whose_failure_is_reported(
    worker: TaskWorker, running: Running
):
    """A call that expired ends as a dead letter, even if its on_failure enqueues a newer call."""
    told: list[str] = []

    async def try_anew(_name: str, task_id: str, _error: Exception) -> None:
        told.append(task_id)
        told.append((await stage.charge.enqueue(1, "newer")).id)

    stage = Stage(
        worker, Unique(clash="replace"), expire=timedelta(milliseconds=1), on_failure=try_anew
    )
    stage.go.set()
    async with worker:
        old = await stage.charge.enqueue(1, "old")
        sent = time.monotonic()
        await eventually(lambda: time.monotonic() > sent + 0.01)
    async with running(worker), open_dead_letters():
        assert not (await old.result(timeout=10)).success
        assert (await get(old.id)).cause is Cause.EXPIRED
        assert told[:1] == [old.id]
        assert told[1] != old.id
    # The newer one may be claimed within its own millisecond.
    assert (1, "old") not in stage.ran


async def test_on_failure_is_not_told_of_a_call_that_was_replaced(worker: TaskWorker):
    """A claimed call that was to expire is not reported once a newer one has replaced it."""
    told: list[str] = []
    stage = Stage(
        worker,
        Unique(clash="replace"),
        expire=timedelta(milliseconds=1),
        on_failure=lambda _name, task_id, _error: told.append(task_id),
    )
    finished: list[Attempt] = []
    async with worker:
        functions, keys = worker.client.functions, worker.client.keys
        executor = Executor(
            worker.registry,
            [],
            client=worker.client,
            observers=Observers([]),
            finish=finished.append,
            worker_id=worker.id,
            idle_ms=60_000,
        )
        call = await stage.charge.enqueue(1, "old")
        await worker.redis.xgroup_create(keys.stream("normal"), "workers", "0")
        head = ["workers", worker.id, 60_000, 900]
        now, *claimed = await functions.call("claim", (keys.queue,), [*head, 1, 1, "normal", 1])
        assert (await stage.charge.enqueue(1, "newer").start(delay=60)).id == call.id
        attempt = Attempt(
            call.id, "normal", claimed[1].decode(), payload=claimed[4], claimed=now, queued=now - 50
        )
        await executor.execute(attempt)
    assert (told, [one.end for one in finished]) == ([], [None])


async def test_a_newer_call_is_signed_for_the_task_that_is_to_run_it(worker: TaskWorker):
    """A newer call is stored only when it is signed for the task that runs it.

    Until then the older call stays, even if it begins between the two requests.
    """
    stage = Stage(worker, Unique(clash="replace"))
    async with worker:
        older = await stage.charge.enqueue(1, "older")
        client, now = worker.client, 1_700_000_000_000
        functions, keys = client.functions, client.keys
        newer = stage.charge.enqueue(1, "newer")
        own, newer.priority = newer.id, "normal"

        async def send(signed_for: str) -> tuple[str, int]:
            newer.id = signed_for
            values = ["charge", "replace", own, *client.values([newer], now)]
            task_id, answer = await functions.call("enqueue_unique", (keys.queue,), values)
            return task_id.decode(), answer

        assert await send(own) == (older.id, SIGN_AGAIN)
        stored = await functions.connection.call("GET", keys.data(older.id))
        assert client.codec.load(stored, Kind.CALL, older.id)["a"] == (1, "older")
        await worker.redis.hset(keys.holder("charge"), {"begun": "1"})
        assert await send(older.id) == (own, SIGN_AGAIN)
        assert await worker.redis.smembers(keys.aborted) == set()
        assert await send(own) == (own, 1)
        assert await worker.redis.smembers(keys.aborted) == {older.id}
        stored = await functions.connection.call("GET", keys.data(own))
        assert client.codec.load(stored, Kind.CALL, own)["a"] == (1, "newer")


async def test_a_newer_call_aborts_one_that_runs_and_follows_it(
    worker: TaskWorker, running: Running
):
    """A newer call aborts the running one and runs after it; of several, the newest runs."""
    stage = Stage(worker, Unique(by=("account_id",), clash="replace"))
    async with running(worker):
        old = await stage.charge.enqueue(1, "old")
        await eventually(lambda: bool(stage.ran))
        newer = await stage.charge.enqueue(1, "newer")
        newest = await stage.charge.enqueue(1, "newest")
        assert isinstance((await old.result(timeout=30)).exception, StreaqCancelled)
        stage.go.set()
        assert (await newest.result(timeout=30)).result == "newest"
        assert (newer.id == newest.id, newer.id == old.id) == (True, False)
        assert await stage.keys() == []
    assert stage.ran == [(1, "old"), (1, "newest")]


async def test_a_clash_may_fail(worker: TaskWorker, running: Running):
    """A call that clashes with ``clash="fail"`` has a dead letter of the cause UNIQUE_CLASH."""
    stage = Stage(worker, Unique(by=("account_id",), clash="fail"), max_retries=1)
    async with running(worker), open_dead_letters():
        first = await stage.charge.enqueue(1, "first")
        await eventually(lambda: bool(stage.ran))
        other = await stage.charge.enqueue(2, "other")
        clashes = await stage.charge.enqueue(1, "clashes")
        assert isinstance((await clashes.result(timeout=30)).exception, StreaqError)
        assert (await get(clashes.id)).cause is Cause.UNIQUE_CLASH
        stage.go.set()
        assert [(await one.result(timeout=30)).success for one in (first, other)] == [True, True]
        assert await stage.keys() == []


async def test_a_lock_is_renewed_and_short(stand_in, settings: Settings, running: Running):
    """A running task renews its lock, which outlives a crash by at most WORKER_IDLE_TIMEOUT."""
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"worker_idle_timeout": 3}))
    stage = Stage(worker, True, timeout=3600)
    async with running(worker):
        await stage.charge.enqueue(1)
        await eventually(lambda: bool(stage.ran))
        lock = worker.client.keys.lock("charge")
        assert 0 < await worker.redis.pttl(lock) <= 3000
        # The next renewal comes within a second; the one after it would find no lock.
        await worker.redis.pexpire(lock, 2000)

        async def is_renewed() -> bool:
            return await worker.redis.pttl(lock) > 2000

        await eventually(is_renewed, what=lambda: "a renewed lock")
        stage.go.set()


async def test_a_running_task_has_its_lock_for_as_long_as_it_runs(
    stand_in, settings: Settings, running: Running
):
    """A task renews the lock that it has at its start, and takes it again once it has expired.

    Otherwise another call would begin beside it after a takeover, or after an outage.
    """
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"worker_idle_timeout": 3}))
    stage = Stage(worker, True, timeout=3600)
    async with running(worker):
        lock = worker.client.keys.lock("charge")
        task = stage.charge.enqueue(1)
        await worker.redis.set(lock, task.id, px=1000)
        await task
        await eventually(lambda: bool(stage.ran))
        assert 1000 < await worker.redis.pttl(lock) <= 3000
        await worker.redis.delete([lock])

        async def is_taken_again() -> bool:
            return await worker.redis.get(lock) == task.id

        await eventually(is_taken_again, what=lambda: "the lock")
        assert not (await (await stage.charge.enqueue(2)).result(timeout=30)).success
        stage.go.set()
        assert (await task.result(timeout=30)).success
        assert not await worker.redis.exists([lock])


async def test_a_task_enqueued_in_another_way_joins_the_line(
    worker: TaskWorker, running: Running, settings: Settings
):
    """A call of streaq's own client, and a dead letter that is retried, wait in line."""
    failing = [True]
    ran: list[str] = []
    begun, go = asyncio.Event(), asyncio.Event()
    with using_worker(worker):

        @robust_task(name="charge", max_retries=1, unique=Unique(clash="skip"))
        async def charge(note: str) -> str:
            if failing:
                failing.clear()
                raise ValueError(note)
            ran.append(note)
            begun.set()
            await go.wait()
            return note

        async with running(worker), open_dead_letters():
            lost = await charge.enqueue("lost")
            assert not (await lost.result(timeout=30)).success
            await charge.enqueue("first")
            await begun.wait()
            again = await retry(lost.id)
            theirs = await _enqueue_by_streaq(worker, settings, "theirs")
            keys = worker.client.keys

            async def both_wait() -> bool:
                return await worker.redis.zcard(keys.line("charge")) >= 2

            await eventually(both_wait, what=lambda: "two in line")
            await eventually(lambda: worker.running() == 1)
            go.set()
            for task_id, note in ((again, "lost"), (theirs, "theirs")):
                result = await worker.result_by_id(task_id, timeout=30)
                assert (result.result, result.tries) == (note, 1)
            assert await worker.redis.exists([keys.unique]) == 0
    assert ran[0] == "first"
    assert sorted(ran[1:]) == ["lost", "theirs"]


async def _enqueue_by_streaq(worker: TaskWorker, settings: Settings, note: str) -> str:
    """Enqueue a call as streaq's client does, without lines and places."""
    task = worker.registry["charge"].enqueue(note)
    data = await task.serialize(1_700_000_000_000)
    signed = data + hmac.digest(signing_keys(settings)[0], data, "sha256")
    await worker.redis.set(worker.task_key + task.id, signed)
    await worker.redis.xadd(
        worker.stream_key + "normal", {"task_id": task.id, "enqueue_time": "1700000000000"}
    )
    return str(task.id)


async def test_an_end_in_another_worker_is_noticed(worker: TaskWorker, running: Running):
    """A worker runs the next task in line though streaq's worker has ended the one before."""
    stage = Stage(worker, Unique(clash="wait"))
    stage.go.set()
    async with worker:
        first = await stage.charge.enqueue(1, "first")
        second = await stage.charge.enqueue(1, "second")
        stream = worker.stream_key + "normal"
        (entry,) = await worker.redis.xrange(stream)
        await worker.redis.xdel(stream, [entry.identifier])
        await worker.redis.delete([worker.task_key + first.id])
    async with running(worker):
        assert (await second.result(timeout=30)).result == "second"
    assert stage.ran == [(1, "second")]


async def test_a_unique_task_stands_alone(worker: TaskWorker):
    """A unique task in a chain, after others or with a schedule raises TaskError at the call."""
    stage = Stage(worker, Unique(by=("account_id",)))

    @worker.task(name="plain")
    async def plain(n: int = 0) -> int:
        return n

    async with worker:
        other = plain.enqueue()
        for call in (
            plain.enqueue() | stage.charge,
            stage.charge.enqueue(1).then(plain),
            stage.charge.enqueue(1).start(after=other.id),
            stage.charge.enqueue(1).start(schedule="* * * * *"),
        ):
            with pytest.raises(TaskError, match="charge is unique, so it can't be part of a chain"):
                await call
        with pytest.raises(TaskError, match="charge: missing a required argument"):
            await stage.charge.enqueue()
        with pytest.raises(TaskError, match=r"unique by account_id=, and a object can't be"):
            await stage.charge.enqueue(object())
        found = [
            key
            async for key in worker.redis.scan_iter(f"{worker.client.keys.queue}:*", count=10_000)
        ]
        assert found == []


async def test_many_unique_calls_are_sent_together(worker: TaskWorker, running: Running):
    """Unique calls of enqueue_many() clash with each other as single calls do."""
    stage = Stage(worker, Unique(by=("account_id",)))
    stage.go.set()
    async with worker:
        calls = [stage.charge.enqueue(n % 3) for n in range(9)]
        await worker.enqueue_many(calls)
        assert len({call.id for call in calls}) == 3
    async with running(worker):
        for call in calls:
            assert (await call.result(timeout=30)).success
    assert sorted(stage.ran) == [(0, ""), (1, ""), (2, "")]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Unique(by="account_id"), TypeError, r"by takes names, not one: by=\('account_id"),
        (lambda: Unique(by=(1,)), TypeError, "by takes names of parameters"),
        (lambda: Unique(clash="queue"), ValueError, "clash takes one of 'skip', 'wait', 'replace'"),
        (lambda: robust_task(unique="skip"), TypeError, "a Unique, not 'skip'"),
        (
            lambda: robust_cron("0 3 * * *", unique=Unique()),
            TypeError,
            r"A schedule takes unique=True or unique=False, .* not Unique\(by=\(\), clash='skip'\)",
        ),
    ],
)
def test_a_wrong_rule_is_refused(make, error, message):
    """A wrong rule raises an error with the value and with what to write."""
    with pytest.raises(error, match=message):
        make()


def test_names_that_are_no_parameters_are_refused_at_decoration(worker: TaskWorker):
    """A name in `by=` that is no parameter raises ValueError with the parameters of the function.

    The task is not registered.
    """
    with using_worker(worker), pytest.raises(ValueError, match="has: account_id, cents$"):

        @robust_task(unique=Unique(by=("acount_id",)))
        async def charge(account_id: int, cents: int) -> None: ...

    assert "charge" not in str(worker.registry)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((1,), (1,), True),
        ((1,), ("1",), False),
        (({"a": 1, "b": 2},), ({"b": 2, "a": 1},), True),
        (({"x", "y", "z"},), ({"z", "y", "x"},), True),
        ((b"\xff",), (b"\xfe",), False),
        ((timedelta(1),), (timedelta(2),), False),
    ],
)
def test_equal_arguments_make_one_group(one, other, same):
    """Equal arguments have one group, whatever the order of a dict or a set."""

    def function(value: Any) -> None: ...

    unique = Unique(by=("value",))
    groups = [unique.group(function, "task", args, {}) for args in (one, other)]
    assert (groups[0] == groups[1]) is same


ACTIONS = [
    "enqueue",
    "enqueue later",
    "enqueue failing",
    "open",
    "close",
    "abort",
    "yield",
    "begin",
]


class Group:
    """An account of the property test, with its calls and its runs."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls: list[str] = []
        self.ran: list[int] = []
        self.running = 0
        self.clashed = False
        self.begun = asyncio.Event()

    async def run(self, number: int, *, fails: bool) -> int:
        self.clashed = self.clashed or self.running > 0
        self.running += 1
        self.ran.append(number)
        self.begun.set()
        try:
            await self.gate.wait()
            if fails:
                raise RetryLater("once more", after=0)
        finally:
            self.running -= 1
        return number

    async def act(self, action: str, task: Any, account: int) -> None:
        if action.startswith("enqueue"):
            call = task.enqueue(account, len(self.calls), fails=action == "enqueue failing")
            if action == "enqueue later":
                call.start(delay=0.05)
            self.calls.append((await call).id)
        elif action == "abort" and self.calls:
            await task.worker.abort_by_id(self.calls[-1], timeout=0)
        elif action == "begin" and self.calls:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.begun.wait(), 0.1)
            self.begun.clear()
        elif action == "open":
            self.gate.set()
        elif action == "close":
            self.gate.clear()
        else:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("clash", ["skip", "wait", "replace"])
async def test_whatever_happens_one_runs_at_a_time_and_every_call_ends(
    worker: TaskWorker, running: Running, clash: Any
):
    """A group's runs never overlap, however calls, delays, failures and aborts interleave."""
    scripts: list[list[str]] = []

    @examples(max_examples=60, deadline=None, database=None)
    @given(script=st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=12))
    def write(script: list[str]) -> None:
        scripts.append(script)

    write()
    groups = [Group() for _ in scripts]
    with using_worker(worker):

        @robust_task(name="act", max_retries=2, unique=Unique(by=("account",), clash=clash))
        async def act(account: int, number: int, *, fails: bool) -> int:
            return await groups[account].run(number, fails=fails)

    async def play(account: int) -> None:
        group = groups[account]
        for action in scripts[account]:
            await group.act(action, act, account)
        group.gate.set()
        for task_id in group.calls:
            result = await worker.result_by_id(task_id, timeout=30)
            assert not isinstance(getattr(result, "_result", None), AssertionError), scripts[
                account
            ]

    async with running(worker):
        await asyncio.gather(*map(play, range(len(groups))))
        keys = worker.client.keys

        async def is_free() -> bool:  # a replaced task may still be ending
            return not await worker.redis.exists([keys.unique])

        await eventually(is_free, 30, what=lambda: "the last lock to be released")
        left = [key async for key in worker.redis.scan_iter(f"{keys.queue}:task:*", count=10_000)]
        # A busy machine requeues messages, of which a note is kept.
        assert {str(key).split(":")[-2] for key in left} <= {"results", "failed", "lost"}
    assert not any(group.clashed for group in groups)
    if clash == "wait":
        for group in groups:
            assert group.ran == sorted(group.ran)


WORKER = """
import asyncio, contextlib, sys
from vibetuner.config import Settings, using_settings
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

async def main(url, prefix, key, clash):
    settings = Settings(
        environment="test", redis_url=url, redis_key_prefix=prefix, secret_key=key,
        worker_idle_timeout=1,
    )
    with using_settings(settings), using_worker(TaskWorker(settings)) as worker:

        @robust_task(name="charge", unique=Unique(clash=clash), timeout=3600)
        async def charge(note):
            print("begun", flush=True)
            await asyncio.sleep(3600)

        await worker.run_async(lifespan=contextlib.nullcontext())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("clash", ["fail", "wait"])
async def test_a_lock_outlives_no_kill_by_more_than_the_idle_timeout(
    stand_in, settings: Settings, running: Running, clash: Any
):
    """The lock of a killed worker expires soon, not after the task's timeout of an hour."""
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"worker_idle_timeout": 1}))
    ran: list[str] = []
    with using_worker(worker):

        @robust_task(name="charge", unique=Unique(clash=clash), timeout=3600)
        async def charge(note: str) -> None:
            ran.append(note)

    assert settings.secret_key is not None
    key = settings.secret_key.get_secret_value()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, settings.redis_url or "", settings.redis_key_prefix, key,
        clash, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with worker:
        first = await charge.enqueue("first")
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"begun\n"
        second = await charge.enqueue("second") if clash == "wait" else None
        process.kill()
        await process.wait()
        if second is None:
            assert await worker.redis.pttl(worker.client.keys.lock("charge")) <= 1000
    async with running(worker):
        assert (await first.result(timeout=30)).success
        if second is not None:
            assert (await second.result(timeout=30)).success
    assert ran == (["first"] if second is None else ["first", "second"])


@pytest.mark.parametrize("clash", ["skip", "wait", "replace"])
async def test_a_task_whose_rule_changes_leaves_its_group(
    worker: TaskWorker, running: Running, settings: Settings, clash: Clash
):
    """A call that a web process of an older version has enqueued doesn't block the next ones."""
    older, ran = TaskWorker(settings), list[int]()

    def define(worker: TaskWorker, unique: Unique) -> Any:
        with using_worker(worker):

            @robust_task(name="charge", unique=unique)
            async def charge(number: int) -> int:
                ran.append(number)
                return number

        return charge

    former = define(older, Unique(clash=clash))
    define(worker, Unique(by=("number",), clash=clash))
    async with older, running(worker):
        for number in range(3):
            calls = [await former.enqueue(number)]
            if clash == "wait":
                calls.append(await former.enqueue(number))
            for call in calls:
                assert (await call.result(timeout=30)).result == number
    async with worker:
        keys = worker.client.keys
        left = [keys.unique, keys.holder("charge"), keys.line("charge"), keys.in_line]
        assert await worker.redis.exists(left) == 0
    assert sorted({*ran}) == [0, 1, 2]
