"""Tasks that are enqueued once under an idempotency key."""

from __future__ import annotations

import asyncio
import enum
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import TaskError, TaskExists
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.tasks.call import fingerprint
from vibetuner.tasks.dead_letters import open_dead_letters, retry
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import TaskWorker, using_worker
from vibetuner.testing import held_open


@pytest.fixture
async def worker(stand_in, settings: Settings) -> AsyncIterator[TaskWorker]:
    """Yield a worker whose queue is open."""
    stand_in()
    async with held_open(TaskWorker(settings)) as worker:
        yield worker


@pytest.fixture
def charge(worker: TaskWorker) -> Any:
    """Return a task that is enqueued once."""

    @worker.task(name="charge")
    async def charge(amount: int, currency: str = "EUR") -> int:
        return amount

    return charge


async def queued(worker: TaskWorker) -> int:
    """Return the number of messages that wait."""
    return int(await worker.queue_size())


async def test_one_of_many_calls_is_enqueued(worker: TaskWorker, charge: Any):
    """Fifty simultaneous calls with one key enqueue one task, and all return its id."""
    calls = await asyncio.gather(*(charge.enqueue(5).once("evt") for _ in range(50)))
    assert len({call.id for call in calls}) == 1
    assert await queued(worker) == 1


async def test_calls_with_equal_arguments_are_the_same(worker: TaskWorker, charge: Any):
    """Arguments are equal whether they are passed by position, by name or by default."""
    first = await charge.enqueue(5).once("evt")
    assert (await charge.enqueue(amount=5).once("evt")).id == first.id
    assert (await charge.enqueue(5, currency="EUR").once("evt")).id == first.id


async def test_other_arguments_are_an_error_that_names_both(worker: TaskWorker, charge: Any):
    """Other arguments raise an error with the key, its task and the argument, but no value."""
    first = await charge.enqueue(4711).once("evt")
    with pytest.raises(TaskError) as caught:
        await charge.enqueue(4712).once("evt")
    assert str(caught.value) == (
        f"charge: the key 'evt' belongs to charge {first.id}, which was enqueued with another "
        "amount=. Use another key for another event"
    )
    assert await queued(worker) == 1


async def test_another_task_is_an_error(worker: TaskWorker, charge: Any):
    """A key belongs to one task of the queue, and a call of another task raises TaskError."""

    @worker.task(name="refund")
    async def refund(amount: int) -> None: ...

    first = await charge.enqueue(5).once("evt")
    with pytest.raises(TaskError, match=f"refund: the key 'evt' belongs to charge {first.id}"):
        await refund.enqueue(5).once("evt")


async def test_a_key_goes_to_no_task_that_has_the_id_already(worker: TaskWorker, charge: Any):
    """A call whose own id is taken raises TaskExists, and its key stays free."""
    first = charge.enqueue(5)
    first.id = "acme"
    await first
    second = charge.enqueue(6).once("evt")
    second.id = "acme"
    with pytest.raises(TaskExists, match="charge acme waits or runs already"):
        await second
    assert await queued(worker) == 1
    third = await charge.enqueue(6).once("evt")
    assert third.id != first.id
    assert await queued(worker) == 2


async def test_the_server_forgets_a_key_after_its_time(
    worker: TaskWorker, charge: Any, settings: Settings
):
    """A key can be used again after `keep`, and both keys that Redis stores of it expire."""
    first = await charge.enqueue(5).once("evt", keep=timedelta(milliseconds=1))
    keys = Keys(settings.redis_key_prefix)

    async def is_forgotten() -> bool:
        return not await worker.redis.exists([keys.once("evt")])

    await eventually(is_forgotten, what=lambda: "the key to expire")
    second = await charge.enqueue(6).once("evt", keep=timedelta(hours=1))
    assert first.id != second.id
    for key in (keys.once("evt"), keys.keyed(second.id)):
        assert 3_590_000 < await worker.redis.pttl(key) <= 3_600_000


@pytest.mark.parametrize("task_id", ["acme 2026 11", "?", "-1"])
async def test_a_key_gives_back_an_id_of_any_form(worker: TaskWorker, charge: Any, task_id: str):
    """A call with a key and an id of its own gets that id, and so do the calls that repeat it."""
    first, again = charge.enqueue(5).once("evt"), charge.enqueue(5).once("evt")
    first.id = task_id
    assert (await first).id == (await again).id == task_id
    with pytest.raises(TaskError, match=re.escape(f"belongs to charge {task_id}, which was")):
        await charge.enqueue(6).once("evt")


async def test_a_key_clash_blocks_no_other_call_of_a_batch(worker: TaskWorker, charge: Any):
    """enqueue_many() raises TaskError for a key clash after it has enqueued all other calls."""
    await charge.enqueue(5).once("evt")
    calls = [charge.enqueue(6).once("evt"), charge.enqueue(7).once("other"), charge.enqueue(8)]
    with pytest.raises(TaskError, match="'evt' belongs to charge"):
        await worker.enqueue_many(calls)
    assert await queued(worker) == 3


async def test_a_batch_may_hold_calls_with_keys(worker: TaskWorker, charge: Any):
    """Calls of enqueue_many() that have one key get one id, and the others are enqueued."""
    calls = [charge.enqueue(5).once("evt"), charge.enqueue(6), charge.enqueue(5).once("evt")]
    await worker.enqueue_many(calls)
    assert calls[0].id == calls[2].id
    assert await queued(worker) == 2


@pytest.mark.parametrize(
    ("key", "keep", "message"),
    [
        ("", timedelta(1), "once() takes a key of 1 to 500 characters, not ''"),
        ("x" * 501, timedelta(1), "once() takes a key of 1 to 500 characters, not 'xxxx"),
        (7, timedelta(1), "once() takes a key of 1 to 500 characters, not 7"),
        ("evt", 60, "once() takes keep= as a timedelta of a millisecond to 366 days, not 60"),
        (
            "evt",
            timedelta(0),
            "once() takes keep= as a timedelta of a millisecond to 366 days, not",
        ),
    ],
)
async def test_a_wrong_key_or_time_is_refused(charge: Any, key: Any, keep: Any, message: str):
    """once() refuses a wrong key or a wrong `keep` before anything is sent."""
    with pytest.raises(TaskError) as caught:
        charge.enqueue(5).once(key, keep=keep)
    assert message in str(caught.value)


async def test_a_repeated_task_has_no_key(worker: TaskWorker, charge: Any):
    """A call with a crontab as its schedule raises TaskError, and nothing is enqueued."""
    with pytest.raises(TaskError, match="not for one that is repeated"):
        await charge.enqueue(5).start(schedule="0 3 * * *").once("evt")
    assert await queued(worker) == 0


@pytest.mark.parametrize(
    "tie",
    [
        lambda call, task: call | task,
        lambda call, task: call ^ task,
        lambda call, task: call.then(task),
        lambda call, task: call.otherwise(task),
    ],
)
@pytest.mark.parametrize("ask", [lambda call: call.once("evt"), lambda call: call.within({})])
async def test_a_chain_has_no_key_and_no_transaction(
    worker: TaskWorker, charge: Any, tie: Any, ask: Any
):
    """once() and within() refuse each call of a chain, and a chain refuses calls that have them."""
    message = r"charge: once\(\) and within\(\) are for a task alone, not for a chain. Enqueue the"
    first = charge.enqueue(5)
    chain = tie(first, charge)
    for refused in (first, chain, tie(chain, charge)):
        with pytest.raises(TaskError, match=message):
            ask(refused)
    with pytest.raises(TaskError, match=message):
        tie(ask(charge.enqueue(5)), charge)
    assert await queued(worker) == 0


async def test_a_call_with_a_key_may_wait_for_a_task_or_a_time(worker: TaskWorker, charge: Any):
    """A call with a key keeps its `after=`, and its `schedule=` if that is a time."""
    first = await charge.enqueue(5)
    after = await charge.enqueue(6).start(after=first.id).once("after")
    soon = await charge.enqueue(7).start(schedule=datetime.now(UTC) + timedelta(hours=1)).once("at")
    assert (await after.info()).dependencies == {first.id}
    assert (await soon.info()).scheduled is not None
    assert await worker.queue_size(include_scheduled=False) == 1


async def test_a_task_that_waits_in_line_has_no_key(worker: TaskWorker):
    """A unique task with ``clash="wait"`` raises TaskError, as its key would bypass the line."""
    with using_worker(worker):

        @robust_task(name="sync", unique=Unique(clash="wait"), timeout=60)
        async def sync() -> None: ...

    with pytest.raises(TaskError, match="sync: .* unique with clash='wait'"):
        await sync.enqueue().once("evt")
    assert await queued(worker) == 0


async def test_a_call_with_a_key_keeps_its_delay(worker: TaskWorker, charge: Any):
    """A delay holds, whether ``once()`` comes before or after ``start()``."""
    for number, call in enumerate(
        (
            charge.enqueue(5).once("a").start(delay=60),
            charge.enqueue(5).start(delay=60).once("b"),
        ),
        start=1,
    ):
        await call
        assert await worker.queue_size(include_scheduled=False) == 0
        assert await queued(worker) == number


class Kind(enum.Enum):
    """An enumeration, which JSON can't represent."""

    CARD = 1


class Amount:
    """A class whose objects JSON can't represent."""

    def __init__(self, cents: int) -> None:
        self.cents = cents


def test_equal_arguments_have_one_fingerprint(charge: Any):
    """A fingerprint depends neither on the order of a set nor on the address of an object."""

    def prints(numbers: set[int], cents: int) -> str:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        return fingerprint(charge.enqueue([numbers, Kind.CARD, moment, b"x", Amount(cents)]))

    assert list({0, 8}) != list({8, 0})  # as strings are in two processes
    assert prints({0, 8}, 5) == prints({8, 0}, 5) != prints({0, 8}, 6)


def test_arguments_that_fit_nothing_have_a_fingerprint_too(charge: Any):
    """Arguments that contain themselves, or that don't fit the function, have a fingerprint."""
    endless: list[Any] = []
    endless.append(endless)
    assert fingerprint(charge.enqueue(endless)) != fingerprint(charge.enqueue([]))
    many = [fingerprint(charge.enqueue(*range(count))) for count in (8, 9)]
    assert many[0] != many[1]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["once", "crash", "done", "dead", "abort", "retry", "expire"]),
        st.sampled_from(["evt1", "evt2"]),
    ),
    min_size=1,
    max_size=15,
)


def test_whatever_happens_a_key_has_one_task(stand_in, settings: Settings):
    """A key has one task, in whatever order calls run, crash, fail, expire and are retried."""
    stand_in()

    @example_settings(max_examples=15)
    @given(STEPS)
    @example([(step, "evt1") for step in ("once", "dead", "retry", "once", "done", "once")])
    def holds(steps: list[tuple[str, str]]) -> None:
        changes = {"redis_key_prefix": f"test-{uuid4().hex[:12]}", "mongodb_url": None}
        with using_settings(settings.model_copy(update=changes)) as own:
            asyncio.run(walk(own, steps))

    holds()


async def walk(own: Settings, steps: list[tuple[str, str]]) -> None:
    """Take the steps, run all tasks that are left, and check the model."""
    worker = TaskWorker(own)
    worker.burst, worker.handle_signals = True, False
    with using_worker(worker):
        async with open_dead_letters(), worker:
            world = World(worker)
            await world.done("")  # makes the stream
            for name, key in steps:
                await getattr(world, name)(key)
            await world.done("")
            world.check()


class World:
    """A queue, and a model of what is true of its keys."""

    def __init__(self, worker: TaskWorker) -> None:
        self.worker, self.keys = worker, worker.client.keys
        self.owners: dict[str, str] = {}  # a key's task, as long as the server keeps the key
        self.calls = set[str]()  # every task that should have been enqueued
        self.aborted = set[str]()
        self.ends = Counter[str]()
        self.letters = set[str]()
        self.fails = False

        @robust_task(max_retries=1, name="charge", timeout=60)
        async def charge(key: str) -> None:
            self.ends[charge.context.task_id] += 1
            if self.fails:
                self.letters.add(charge.context.task_id)
                raise ValueError(key)

        self.charge = charge

    async def once(self, key: str) -> None:
        """Enqueue a call, and assert that its id is new only if the key has no task."""
        call = await self.charge.enqueue(key).once(key)
        assert call.id == self.owners.setdefault(key, call.id)
        self.calls.add(call.id)

    async def crash(self, _key: str) -> None:
        """Claim all messages for a worker that dies, so that the next one takes them over."""
        stream = self.keys.stream(self.worker.priorities[-1])
        redis: Any = self.worker.redis
        if await redis.exists([stream]):
            await redis.xreadgroup(GROUP, "dead", {stream: ">"}, count=10)
            pending = await redis.xpending(stream, GROUP, start="-", end="+", count=100)
            if ids := [entry.identifier for entry in pending]:
                await redis.xclaim(
                    stream, GROUP, "dead", 0, ids, justid=True, idle=self.worker.idle_timeout
                )

    async def done(self, _key: str) -> None:
        """Run all tasks that wait, so that they succeed."""
        self.fails = False
        await self.worker.run_async(lifespan=nullcontext())

    async def dead(self, _key: str) -> None:
        """Run all tasks that wait, so that they become dead letters."""
        self.fails = True
        await self.worker.run_async(lifespan=nullcontext())

    async def abort(self, key: str) -> None:
        """Abort the task of a key."""
        if key in self.owners and not self.ends[self.owners[key]]:
            await self.worker.abort_by_id(self.owners[key], timeout=0)
            self.aborted.add(self.owners[key])

    async def retry(self, key: str) -> None:
        """Retry the dead letter of a key's task, which passes the key to the new task."""
        if (old := self.owners.get(key)) in self.letters and old is not None:
            self.letters.discard(old)
            new = await retry(old)
            self.owners[key] = new
            self.calls.add(new)

    async def expire(self, key: str) -> None:
        """Remove a key from the server, as if its time were over."""
        await self.worker.redis.pexpire(self.keys.once(key), 0)
        self.owners.pop(key, None)

    def check(self) -> None:
        """Assert that each enqueued task has run once, and nothing else has run."""
        assert {*self.ends} <= self.calls
        assert all(self.ends[task] == (task not in self.aborted) for task in self.calls)
