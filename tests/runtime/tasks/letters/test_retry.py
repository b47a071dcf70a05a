"""A dead letter is retried once, with the arguments that were enqueued."""

from __future__ import annotations

import asyncio
import hmac
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.runtime.tasks.letters.conftest import Bury, enqueued, keep, make_letter, payload_of
from vibetuner.config import Settings, using_settings
from vibetuner.errors import DeadLetterError
from vibetuner.tasks.dead_letters import count, discard, get, open_dead_letters, retry
from vibetuner.tasks.letters.letter import Act, retry_id
from vibetuner.tasks.letters.requeue import make_retry
from vibetuner.tasks.letters.stream import StreamStore
from vibetuner.tasks.payload import Kind, signing_keys
from vibetuner.tasks.worker import TaskWorker, get_worker


async def test_a_retry_enqueues_the_same_call(store: str, bury: Bury, queue: TaskWorker):
    """A retry enqueues the same call, signed for a new id, and its status is queued."""
    letter = await bury("t1", "acme", 12)

    new_id = await retry("t1")

    assert await enqueued(queue, new_id) == 1
    stored = await queue.redis.get(queue.task_key + new_id)
    codec = queue.client.codec
    body = codec.open_kept(letter.payload, "t1")
    assert codec.open(bytes(stored), Kind.CALL, new_id) == body
    assert (await queue.status_by_id(new_id)).value == "queued"


async def test_twenty_simultaneous_retries_lead_to_one_run(
    store: str, bury: Bury, queue: TaskWorker
):
    """Simultaneous retries return the same id, enqueue one task, and record one person."""
    await bury("t1", "acme")

    ids = await asyncio.gather(*(retry("t1", by=f"person {n}") for n in range(20)))

    (new_id,) = set(ids)
    assert await enqueued(queue, new_id) == 1
    letter = await get("t1")
    assert letter.retried_as == new_id
    assert letter.acted_by is not None


async def test_asking_again_after_it_has_run_does_not_run_it_again(
    store: str, bury: Bury, queue: TaskWorker
):
    """A second retry returns the first one's id and enqueues nothing, even if that task is gone.

    This also holds for a caller that has read the letter before.
    """
    seen_before = await bury("t1", "acme")
    new_id = await retry("t1")
    await queue.redis.delete([queue.task_key + new_id])
    entries = await queue.redis.xrange(queue.stream_key + "normal", "-", "+")
    await queue.redis.xdel(queue.stream_key + "normal", [entry.identifier for entry in entries])

    assert await retry("t1") == new_id
    assert await retry(seen_before) == new_id
    assert await enqueued(queue, new_id) == 0


async def test_one_retries_while_another_discards(store: str, bury: Bury, queue: TaskWorker):
    """A simultaneous retry and discard have one winner, whom the other's DeadLetterError names."""
    for n in range(10):
        await bury(f"t{n}", "acme")
        outcome = await asyncio.gather(
            retry(f"t{n}", by="ann"), discard(f"t{n}", by="bob"), return_exceptions=True
        )

        letter = await get(f"t{n}")
        (lost,) = [error for error in outcome if isinstance(error, DeadLetterError)]
        if letter.retried_as:
            assert "was retried as" in str(lost)
            assert "by ann" in str(lost)
        else:
            assert "was discarded by bob" in str(lost)
        assert await enqueued(queue, retry_id(make_letter(f"t{n}"))) == bool(letter.retried_as)


async def test_a_crash_between_queue_and_record_leads_to_no_second_run(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """A second retry only records a first one that crashed after its enqueue."""
    letter = await bury("t1", "acme")
    assert await count() == 1
    act = Act(at=datetime.now(UTC), by="ann", retried_as=retry_id(make_letter("t1")))
    keys, codec = queue.client.keys, queue.client.codec
    store = StreamStore(queue.redis, settings.redis_key_prefix)
    await store.settle(letter, act, make_retry(letter, queue, keys, codec, None), keep=False)
    assert (await get("t1")).is_open

    assert await retry("t1", by="bob") == act.retried_as

    assert await enqueued(queue, retry_id(make_letter("t1"))) == 1
    completed = await get("t1")
    assert (completed.retried_as, completed.acted_by) == (act.retried_as, "ann")


async def test_ties_to_tasks_that_are_gone_are_cut(store: str, bury: Bury, queue: TaskWorker):
    """A retried call has no links to other tasks, as those that waited for it have failed."""
    tied = await payload_of(queue, "acme", T="next-one", O="plan-b", F="plan-a")
    await bury("t1", payload=tied)

    new_id = await retry("t1")

    data = await queue.deserialize(await queue.redis.get(queue.task_key + new_id))
    assert data == {"f": "send_invoice", "a": ("acme",), "k": {}, "t": 1}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "its arguments are gone"),
        (b"\x80garbage", "its arguments can't be read"),
        (pickle.dumps({"f": "x"}) + b"s" * 32, "Invalid signature"),
    ],
)
async def test_a_letter_without_trusted_arguments_is_refused(
    store: str, bury: Bury, payload: bytes, reason: str
):
    """A retry without valid arguments raises DeadLetterError in one line.

    The letter stays open, and can be discarded.
    """
    await bury("t1", payload=payload)

    with pytest.raises(
        DeadLetterError, match=f"t1 can't be retried: .*{reason}.*discard"
    ) as caught:
        await retry("t1")

    assert "\n" not in str(caught.value)
    assert (await get("t1")).is_open
    await discard("t1")


async def test_signed_data_that_is_no_call_is_refused(store: str, bury: Bury, queue: TaskWorker):
    """A signed payload that is no call, or a call of another task, raises DeadLetterError."""
    codec = queue.client.codec
    await bury("t1", payload=codec.seal(await queue.serialize({"r": 1}), Kind.CALL, "t1"))

    with pytest.raises(DeadLetterError, match="the stored payload is no call of a task"):
        await retry("t1")

    other = await payload_of(queue, task_id="t2", f="charge")
    await bury("t2", payload=other)
    with pytest.raises(DeadLetterError, match="the stored payload is a call of another task"):
        await retry("t2")


async def test_arguments_that_never_came_are_refused(store: str, bury: Bury, queue: TaskWorker):
    """A letter whose arguments were to come from another task raises DeadLetterError."""
    await bury("t1", payload=await payload_of(queue, A="t0"))

    with pytest.raises(DeadLetterError, match="its arguments come from the result of t0"):
        await retry("t1")


async def test_nothing_forged_is_unpickled(store: str, bury: Bury, tmp_path: Path):
    """A payload with a forged signature raises DeadLetterError before it is unpickled."""
    trap = tmp_path / "unpickled"
    await bury("t1", payload=pickle.dumps(Trap(trap)) + b"s" * 32)

    with pytest.raises(DeadLetterError):
        await retry("t1")

    assert not trap.exists()


async def test_arguments_signed_with_the_previous_key_are_accepted(settings: Settings):
    """A letter from before a change of SECRET_KEY can be retried."""
    body = pickle.dumps({"f": "send_invoice", "a": ("acme",), "k": {}, "t": 1})
    signature = hmac.digest(signing_keys(settings)[0], body, "sha256")
    changed = {
        "secret_key": SecretStr("a new secret"),
        "secret_key_previous": settings.secret_key,
    }
    with using_settings(settings.model_copy(update=changed)):
        async with open_dead_letters():
            letter = make_letter("t1", payload=body + signature)
            await keep(get_worker().redis, settings.redis_key_prefix, letter)

            assert await retry("t1") == retry_id(make_letter("t1"))


async def test_a_retry_that_fails_can_be_retried(store: str, bury: Bury):
    """A dead letter of a retry can be retried, and each retry has another id."""
    await bury("t1", "acme")
    second = await retry("t1")
    await bury(second, "acme")

    third = await retry(second)

    assert len({"t1", second, third}) == 3


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)
