"""A signature is valid for one kind, queue and id; older signatures are still read."""

from __future__ import annotations

import hmac
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from streaq import StreaqError

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.tasks.payload import KEPT, Codec, Kind
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

KEY = b"k" * 32
NAMES = st.text(max_size=12)
PLACES = st.tuples(st.sampled_from(Kind), NAMES, NAMES)


def codec_of(queue: str, *keys: bytes, accepts_unbound: bool = False) -> Codec:
    """Return a codec of the queue, with the test's key unless others are given."""
    return Codec(keys or [KEY], queue, accepts_unbound=accepts_unbound)


@given(home=PLACES, other=PLACES, is_lenient=st.booleans())
@example(home=(Kind.CALL, "q", "12"), other=(Kind.CALL, "q", "2"), is_lenient=False)
@example(home=(Kind.CALL, "aq", "1"), other=(Kind.CALL, "q", "1a"), is_lenient=False)
def test_signed_data_is_read_only_in_its_place(home, other, *, is_lenient: bool):
    """Signed data is read only with the kind, the queue and the id that it was signed for."""
    kind, queue, name = home
    data = codec_of(queue).seal(pickle.dumps({"f": "pay"}), kind, name)
    reader = codec_of(other[1], accepts_unbound=is_lenient)

    if home == other:
        assert reader.load(data, kind, name) == {"f": "pay"}
        return
    if is_lenient and (kind, queue, name, other[0]) == (
        Kind.SCHEDULE, other[1], "pay", Kind.CALL,
    ):  # fmt: skip
        return  # an older worker copies a schedule's call to its run
    with pytest.raises(StreaqError, match="another place"):
        reader.load(data, other[0], other[2])


@given(st.binary(), st.integers(min_value=0))
def test_one_changed_bit_is_refused(value: bytes, at: int):
    """One changed bit in the pickle, the place or the signature raises StreaqError."""
    data = bytearray(codec_of("q").seal(pickle.dumps(value), Kind.CALL, "1"))
    data[at % len(data)] ^= 1
    with pytest.raises(StreaqError, match="Invalid signature"):
        codec_of("q", accepts_unbound=True).load(bytes(data), Kind.CALL, "1")


def test_a_kept_call_can_be_read_and_not_run():
    """The kept half of a call's signature lets its id read the call, but no worker run it."""
    call = codec_of("q").seal(pickle.dumps({"f": "pay"}), Kind.CALL, "1")
    assert pickle.loads(codec_of("q").open_kept(call[KEPT], "1")) == {"f": "pay"}
    for stored in (call[KEPT], call[KEPT] + bytes(16)):
        with pytest.raises(StreaqError, match="Invalid signature"):
            codec_of("q", accepts_unbound=True).load(stored, Kind.CALL, "1")
    with pytest.raises(StreaqError):
        codec_of("q").open_kept(call[KEPT], "2")


def test_a_version_before_reads_what_this_one_signs():
    """Older versions verify the last 32 bytes of a payload, and unpickle up to the place."""
    data = codec_of("q").seal(pickle.dumps({"f": "pay"}), Kind.CALL, "1")
    assert hmac.compare_digest(hmac.digest(KEY, data[:-32], "sha256"), data[-32:])
    assert pickle.loads(data[:-32]) == {"f": "pay"}


def test_this_version_reads_older_signatures_until_a_setting_refuses_them(
    caplog: pytest.LogCaptureFixture,
):
    """An older signature, also of a previous key, is accepted only with UNBOUND_SIGNATURES.

    The first one is logged.
    """
    body = pickle.dumps({"f": "pay"})
    data = body + hmac.digest(KEY, body, "sha256")
    lenient = codec_of("q", b"new" * 10, KEY, accepts_unbound=True)
    for _ in range(2):
        assert lenient.load(data, Kind.CALL, "1") == {"f": "pay"}
    assert [line.partition(";")[0] for line in caplog.messages] == [
        "read what a version before 0.2 has signed"
    ]
    with pytest.raises(StreaqError, match="UNBOUND_SIGNATURES"):
        codec_of("q").load(data, Kind.CALL, "1")


def test_the_previous_secret_still_verifies_its_signatures():
    """A payload that SECRET_KEY_PREVIOUS has signed is read in its place, and in no other."""
    data = codec_of("q").seal(pickle.dumps(1), Kind.RESULT, "1")
    both = codec_of("q", b"new" * 10, KEY)
    assert both.load(data, Kind.RESULT, "1") == 1
    with pytest.raises(StreaqError, match="another place"):
        both.load(data, Kind.RESULT, "2")


@pytest.mark.parametrize("accepts_unbound", [True, False])
async def test_a_moved_call_becomes_a_dead_letter_and_a_moved_result_is_refused(
    stand_in, running, settings: Settings, *, accepts_unbound: bool
):
    """A call that is copied to another id is not run, and a copied result raises StreaqError.

    The worker goes on, and runs the original call once.
    """
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"unbound_signatures": accepts_unbound}))
    ran: list[int] = []

    @worker.task(name="pay")
    async def pay(euros: int) -> int:
        ran.append(euros)
        return euros

    async with worker:
        first = await pay.enqueue(5)
        call: Any = await worker.redis.get(worker.task_key + first.id)
    async with running(worker):
        assert (await first.result(timeout=30)).result == 5
        result: Any = await worker.redis.get(worker.results_key + first.id)
        stream = worker.stream_key + worker.priorities[-1]
        for name, moved in (("moved", call), ("swapped", result), ("half", call[KEPT])):
            await worker.redis.set(worker.task_key + name, moved)
            await worker.redis.xadd(stream, {"task_id": name})
            assert not (await worker.result_by_id(name, timeout=30)).success
            assert await worker.redis.hexists(worker.client.keys.letter_places, name)
        await worker.redis.set(worker.results_key + "fake", result)
        with pytest.raises(StreaqError, match="another place"):
            await worker.result_by_id("fake", timeout=30)
        assert (await (await pay.enqueue(6)).result(timeout=30)).result == 6
    assert ran == [5, 6]


async def test_a_call_whose_id_changes_is_signed_for_its_last_id(
    stand_in, running, settings: Settings
):
    """A unique call that replaces another, and each run of a schedule, run under their last id."""
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"unbound_signatures": False}))
    with using_worker(worker):

        @robust_task(name="charge", unique=Unique(clash="replace"))
        async def charge(note: str) -> str:
            return note

        @worker.task(name="tick")
        async def tick(note: str) -> str:
            return note

    async with worker:
        older = await charge.enqueue("older")
        newer = await charge.enqueue("newer")
        await charge.enqueue("newest")
        repeated = await tick.enqueue("tick").start(schedule="0 0 1 1 *")
        keys = worker.client.keys
        (due,) = await worker.redis.zrange(keys.cron_schedule, 0, -1)
        await worker.redis.zadd(keys.cron_schedule, {due: 1})
        await worker.queue_due()
        delayed = keys.delayed(worker.queue_of("tick"))
        runs = {str(one): 1.0 for one in await worker.redis.zrange(delayed, 0, -1)}
        assert set(runs) > {repeated.id}
        await worker.redis.zadd(delayed, runs)
    async with running(worker):
        assert (older.id, (await older.result(timeout=30)).result) == (newer.id, "newest")
        for run in runs:
            assert (await worker.result_by_id(run, timeout=30)).result == "tick"


async def test_an_exchanged_schedule_runs_nothing(stand_in, running, settings: Settings):
    """A schedule that holds another task's call runs neither task, and leaves a dead letter."""
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"unbound_signatures": False}))
    ran: list[str] = []

    @worker.cron("0 0 1 1 *", name="yearly")
    async def yearly() -> None:
        ran.append("yearly")

    @worker.task(name="pay")
    async def pay() -> None:
        ran.append("pay")

    async with running(worker):
        task = await pay.enqueue().start(delay=60)
        call: Any = await worker.redis.get(worker.task_key + task.id)
        (run,) = [
            str(one)
            for one in await worker.redis.zrange(worker.queue_key + worker.priorities[-1], 0, -1)
            if one != task.id
        ]
        await worker.redis.delete([worker.task_key + run])  # so that it is signed anew
        await worker.redis.set(worker.client.keys.cron_data("yearly"), call)
        await worker.redis.zadd(worker.client.keys.cron_schedule, {"yearly": 1})

        async def is_scheduled_anew() -> bool:
            return await worker.redis.zscore(worker.client.keys.cron_schedule, "yearly") != 1

        await eventually(is_scheduled_anew, what=lambda: "the next run of yearly")
        await worker.redis.zadd(worker.queue_key + worker.priorities[-1], {run: 1})
        assert not (await worker.result_by_id(run, timeout=30)).success
        assert await worker.redis.hexists(worker.client.keys.letter_places, run)
    assert ran == []
