"""Ends that are recorded together, over refusals, outages and other workers."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.waiting import eventually
from vibetuner.redis.keys import GROUP
from vibetuner.tasks.attempt import Attempt, Cause, End
from vibetuner.tasks.client.queue import QueueClient
from vibetuner.tasks.observers import Observer, Observers
from vibetuner.tasks.payload import KEPT, Kind
from vibetuner.tasks.run.dispatcher import FORGET_MS
from vibetuner.tasks.run.finisher import Batch, Finisher, _split, fresh_ms
from vibetuner.tasks.run.outage import Outage
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open


@pytest.mark.parametrize(
    ("idle", "fresh"), [(100, 90), (999, 899), (1000, 900), (1001, 900), (60_000, 900)]
)
def test_a_claim_is_sure_for_less_than_the_shortest_timeout(idle: int, fresh: int):
    """A claim is fresh for nine tenths of the idle timeout, and for at most 0.9 seconds."""
    assert fresh_ms(idle) == fresh


def test_a_batch_is_divided_into_its_ends():
    """Each part of a split batch has the values of its own attempt."""
    one, two = Attempt("a", "normal", "1-0"), Attempt("b", "normal", "2-0")
    batch = Batch(["a1", "a2", "a3", "b1"], [3, 1], [one, two])

    assert [(part.values, part.sizes, part.attempts) for part in _split(batch)] == [
        (["a1", "a2", "a3"], [3], [one]),
        (["b1"], [1], [two]),
    ]


class Recorder(Observer):
    """An observer that notes the ends that were recorded."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def ended(self, attempt: Attempt) -> None:
        self.names.append(attempt.fn_name)


@pytest.fixture
async def client(worker: TaskWorker) -> AsyncIterator[QueueClient]:
    """Yield the client of an open queue, on which no worker runs."""
    async with held_open(worker):
        yield worker.client


@pytest.fixture
def recorder() -> Recorder:
    """Return an observer that notes the ends that were recorded."""
    return Recorder()


@pytest.fixture
def counters() -> dict[str, int]:
    """Return the counters of a worker."""
    return defaultdict(int)


@pytest.fixture
async def finisher(
    client: QueueClient, recorder: Recorder, counters: dict[str, int]
) -> AsyncIterator[Finisher]:
    """Yield a finisher, and close it."""
    finisher = Finisher(
        client, worker_id="w1", idle_ms=60_000,
        observers=Observers([recorder]), counters=counters, outage=Outage(),
    )  # fmt: skip
    yield finisher
    finisher.close()


def done(name: str, task_id: str = "", *, end: End = End.DONE) -> Attempt:
    """Return an attempt that has ended, of a task that was in no stream."""
    attempt = Attempt(task_id or name, "normal", payload=PAYLOAD)
    attempt.fn_name, attempt.end, attempt.finished = name, end, 2000
    attempt.started, attempt.retry_at = 1000, 3000
    return attempt


PAYLOAD = b"a call that is signed by as many bytes as a signature has"
EXTRAS = {"f": b"following", "o": "fallback", "d": "letter", "x": "trace", "j": "", "l": "lock"}
AGAIN = {"j": "", "l": "lock", "t": "entry"}


@pytest.mark.parametrize(
    ("end", "expected", "extras"),
    [
        (End.DONE, ("s", None, 300_000, "entry", PAYLOAD[KEPT]), EXTRAS),
        (End.FAILED, ("f", None, 300_000, "entry", PAYLOAD[KEPT]), EXTRAS),
        (End.ABORTED, ("f", None, 300_000, "entry", PAYLOAD[KEPT]), EXTRAS),
        (End.RETRYING, ("r", 3000, 4, "", b""), AGAIN),
        (End.REQUEUED, ("h", "", 3, "", b""), AGAIN),
    ],
)
async def test_an_end_is_sent_with_all_that_belongs_to_it(
    finisher: Finisher, end: End, expected: tuple[Any, ...], extras: dict[str, Any]
):
    """The values of an end are those of its attempt, and each extra has its letter.

    A retry and a requeue have no result and no letter, and the number of attempts that count.
    """
    attempt = done("mail", "t1", end=end)
    attempt.tries = 4
    attempt.message_id, attempt.claimed, attempt.payload = "5-0", 77, PAYLOAD
    attempt.following, attempt.otherwise, attempt.letter = b"following", "fallback", "letter"
    attempt.trace, attempt.lock, attempt.entry, attempt.is_listed = "trace", "lock", "entry", True

    *values, number = finisher._values(attempt)[:12]
    kind, value, lifetime, entry, payload = expected
    if value is None:
        value = values[5]
        assert finisher._codec.load(value, Kind.RESULT, "t1")["s"] is (end is End.DONE)
    ids = ["normal", "5-0", "t1", 77]
    assert values == [kind, *ids, value, lifetime, "mail", end.value, entry, payload]
    rest = finisher._values(attempt)[12:]
    assert dict(zip(rest[::2], rest[1::2], strict=True)) == extras
    assert number == len(extras)


@pytest.mark.parametrize(("ttl", "lifetime"), [(None, ""), (0, 0), (1.5, 1500)])
async def test_a_result_is_kept_for_the_tasks_ttl(
    worker: TaskWorker, finisher: Finisher, ttl: float | None, lifetime: int | str
):
    """A result is kept for the task's ``ttl``, in milliseconds, and without one for ever."""

    @worker.task(name="mail", ttl=ttl)
    async def mail() -> None: ...

    attempt = done("mail")
    attempt.task = mail
    assert finisher._values(attempt)[6] == lifetime


async def test_the_tasks_that_wait_for_a_failed_one_are_queued_to_fail(
    worker: TaskWorker, client: QueueClient, finisher: Finisher, counters: dict[str, int]
):
    """Tasks that wait for a failed one are queued and marked in the step that records its end."""

    @worker.task(name="mail")
    async def mail() -> None: ...

    first = await mail.enqueue()
    others = {(await mail.enqueue().start(after=first.id)).id for _ in range(2)}
    call, stream = client.functions.connection.call, client.keys.stream(worker.queue_of("mail"))
    await client.functions.call("make_groups", (client.keys.queue,), [GROUP, FORGET_MS, "normal"])
    reply = await call("XREADGROUP", "GROUP", GROUP, "w1", "STREAMS", stream, ">")
    attempt = done("mail", first.id, end=End.FAILED)
    attempt.message_id = reply[0][1][0][0].decode()
    attempt.source = (attempt.priority, attempt.message_id)
    attempt.error = ValueError("no address")
    finisher.add(attempt)
    await finisher.settled()

    assert str((await client.result(first.id, seconds=10)).exception) == "no address"
    messages = await call("XRANGE", stream, "-", "+")
    assert {fields[1].decode() for _, fields in messages} == others
    for other in others:
        assert await call("SISMEMBER", client.keys.failing, other) == 1
        assert await call("GET", client.keys.blamed(other)) == f"mail {first.id}".encode()
    assert counters == {"failed": 1}


async def test_workers_with_unequal_idle_timeouts_record_an_end_without_a_result_once(
    worker: TaskWorker, client: QueueClient
):
    """A worker is superseded by one with a shorter timeout, even if no result tells that it ended.

    Its own claim has not expired by its own timeout, so the task looks as if the server lost it.
    """

    @worker.task(name="mail", ttl=0)
    async def mail() -> None: ...

    task, keys, call = await mail.enqueue(), client.keys, client.functions.call
    await call("make_groups", (keys.queue,), [GROUP, FORGET_MS, "normal"])

    async def claim(consumer: str, idle: int) -> list[Any]:
        options = [GROUP, consumer, idle, 0, 1, 1, "normal", 1]
        return list(await call("claim", (keys.queue,), options))

    async def finish(consumer: str, idle: int, claimed: list[Any]) -> Any:
        now, _, message, *_ = claimed
        ids = ["normal", message, task.id, now]
        one = ["s", *ids, "result", 0, "mail", "done", "entry", "payload", 0]
        options = [GROUP, consumer, idle, 0, now, f"step of {consumer}", ""]
        places = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
        return await call("finish", places, [*options, *one])

    first = await claim("patient", 60_000)

    async def taken_over() -> list[Any]:
        return (await claim("quick", 1))[1:]

    second = [first[0], *await eventually(taken_over)]
    assert second[2] == first[2]
    assert await finish("quick", 1, second) == []
    assert await finish("patient", 60_000, first) == [[1]]
    assert await client.functions.connection.call("XLEN", keys.journal.ended) == 1


@pytest.mark.parametrize(("idle", "kept"), [(1, 30), (60, 60), (86_400, 300)])
async def test_an_answer_is_remembered_while_its_claim_is_valid(
    client: QueueClient, idle: int, kept: int
):
    """A step that is sent again after an outage is not taken for one that the server has lost."""
    keys, call = client.keys, client.functions.call
    places = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
    assert await call("finish", places, [GROUP, "w1", 1000 * idle, 900, 0, "step", 0]) == []
    milliseconds = await client.functions.connection.call("PTTL", keys.answered("step"))
    assert 1000 * kept - 5000 < milliseconds <= 1000 * kept


async def test_a_message_that_never_began_is_requeued_without_an_attempt(finisher: Finisher):
    """A requeued message has its queue and its id, and nothing of an attempt."""
    finisher.requeue("high", "5-0")
    batch = finisher._batch
    assert batch is not None
    assert batch.values == ["u", "high", "5-0", "", 0, "", "", "", "", "", "", 0]
    assert [one.task_id for one in batch.attempts] == [""]
    await finisher.settled()


async def test_an_end_that_the_server_refuses_holds_up_no_other(
    client: QueueClient,
    finisher: Finisher,
    recorder: Recorder,
    counters: dict[str, int],
    caplog: pytest.LogCaptureFixture,
):
    """An end that the server refuses is recorded when its key is mended, and the others at once."""
    delayed = client.keys.delayed("normal")
    await client.functions.connection.call("SET", delayed, "not a sorted set")
    for attempt in (done("late", end=End.RETRYING), done("good"), done("better")):
        finisher.add(attempt)
    await eventually(lambda: sorted(recorder.names) == ["better", "good"])
    await eventually(lambda: "late yet: WRONGTYPE" in caplog.text)
    assert not finisher.is_settled

    await client.functions.connection.call("DEL", delayed)
    await finisher.settled()
    assert recorder.names[-1] == "late"
    assert await client.functions.connection.call("ZCARD", delayed) == 1
    assert "could not record the end of late yet: WRONGTYPE" in caplog.text
    assert counters == {"completed": 2, "retried": 1}


async def test_an_end_that_cannot_be_sent_is_left_to_another_worker(
    client: QueueClient, finisher: Finisher, recorder: Recorder, caplog: pytest.LogCaptureFixture
):
    """An end that can't be encoded is logged, and its message stays pending.

    The other ends of its batch are recorded.
    """
    call, stream = client.functions.connection.call, client.keys.stream("normal")
    await call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
    attempts = [done("before"), done("bad"), done("after")]
    attempts[1].lock = "\ud800"
    for attempt in attempts:
        fields = ("task_id", attempt.task_id, "enqueue_time", "1")
        message = (await call("XADD", stream, "*", *fields)).decode()
        attempt.message_id, attempt.source = message, ("normal", message)
    await call("XREADGROUP", "GROUP", GROUP, "w1", "STREAMS", stream, ">")
    for attempt in attempts:
        finisher.add(attempt)
    assert finisher.unrecorded == {attempt.source: 1 for attempt in attempts}

    await finisher.settled()

    assert "could not record the end of bad" in caplog.messages
    assert sorted(recorder.names) == ["after", "before"]
    assert finisher.unrecorded == {}
    pending = await call("XPENDING", stream, GROUP, "-", "+", 9)
    assert [message.decode() for message, *_ in pending] == [attempts[1].message_id]
    assert finisher.close() == []


async def test_a_message_may_have_two_ends_that_are_being_recorded(
    client: QueueClient, finisher: Finisher
):
    """A message with two ends is unrecorded until both are recorded."""
    for _ in range(2):
        finisher.requeue("normal", "1-1")
    assert finisher.unrecorded == {("normal", "1-1"): 2}
    finisher._forget(("normal", "1-1"))
    assert finisher.unrecorded == {("normal", "1-1"): 1}
    await finisher.settled()
    assert finisher.unrecorded == {}


async def test_a_requeued_message_of_another_worker_is_no_discarded_result(
    client: QueueClient, finisher: Finisher, counters: dict[str, int], recorder: Recorder
):
    """A requeue of another worker's message counts nothing.

    The end of an attempt that ran counts as superseded.
    """
    call, stream = client.functions.connection.call, client.keys.stream("normal")
    await call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
    message = (await call("XADD", stream, "*", "task_id", "t1", "enqueue_time", "1")).decode()
    await call("XREADGROUP", "GROUP", GROUP, "another", "STREAMS", stream, ">")
    finisher.requeue("normal", message)
    await finisher.settled()
    assert counters["superseded"] == 0

    attempt = done("slow", "t1")
    attempt.message_id, attempt.source = message, ("normal", message)
    finisher.add(attempt)
    await finisher.settled()
    assert (counters["superseded"], recorder.names) == (1, [])


async def test_a_closed_finisher_waits_for_no_answer(finisher: Finisher, recorder: Recorder):
    """close() returns the attempts without an acknowledged end, and no requeued message."""
    first = done("first")
    finisher.add(first)
    finisher.requeue("normal", "1-1")
    await asyncio.sleep(0)
    assert finisher.close() == [first]
    await finisher.settled()
    assert recorder.names == []


async def test_a_result_is_stored_for_the_task_that_follows(
    client: QueueClient, finisher: Finisher
):
    """A result is signed as the next task's arguments; one that can't be pickled fails its task."""
    good, bad = done("good"), done("bad")
    good.value, bad.value = 7, lambda: None
    for attempt in (good, bad):
        attempt.triggers = "next"
        finisher.add(attempt)
    await finisher.settled()
    call = client.functions.connection.call
    stored = await call("GET", client.keys.previous("good"))
    assert client.codec.load(stored, Kind.ARGUMENTS, "good") == (7,)
    assert await call("GET", client.keys.previous("bad")) is None
    assert (good.end, bad.end, bad.cause) == (End.DONE, End.FAILED, Cause.EXCEPTION)
    assert (await client.result("bad", seconds=10)).success is False


async def test_an_abandoned_task_is_requeued(
    finisher: Finisher, counters: dict[str, int], recorder: Recorder
):
    """A task whose function does not end is requeued, so what it returns later does not count."""
    attempt = done("endless")
    attempt.end = None
    finisher.abandon(attempt)
    assert attempt.end is End.REQUEUED
    assert abs(time.time() * 1000 - attempt.finished) < 60_000
    await finisher.settled()
    assert (counters["relinquished"], recorder.names) == (1, ["endless"])
