"""Dead letters of the test's own, in either store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from vibetuner.config import Settings, using_settings
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.dead_letters import Cause, DeadLetter, open_dead_letters
from vibetuner.tasks.letters.mongo import MongoStore
from vibetuner.tasks.letters.stream import Client
from vibetuner.tasks.payload import Kind
from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.testing import held_open

Bury = Callable[..., Awaitable[DeadLetter]]


@pytest.fixture(params=["mongodb", "stream"])
def store(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    """Yield the name of the store, in a project with MongoDB and in one without."""
    url = settings.mongodb_url if request.param == "mongodb" else None
    with using_settings(settings.model_copy(update={"mongodb_url": url})):
        yield request.param


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[TaskWorker]:
    """Yield a worker with all resources open that dead letters need."""
    async with held_open(open_dead_letters()):
        yield get_worker()


@pytest.fixture
def bury(settings: Settings, queue: TaskWorker) -> Bury:
    """Return a function that stores a dead letter in the stream, as a worker does."""

    async def bury(task_id: str, *args: Any, payload: bytes | None = None, **changes: Any):
        if payload is None:
            payload = await payload_of(queue, *args, task_id=task_id)
        letter = make_letter(task_id, args=list(args), payload=payload, **changes)
        await keep(queue.redis, settings.redis_key_prefix, letter)
        return letter

    return bury


async def keep(redis: Client, prefix: str, letter: DeadLetter) -> None:
    """Store a dead letter in the stream, as the step that ends its task does."""
    await Scripts(redis).call("finish", *ending(Keys(prefix), letter))


def ending(keys: Keys, *letters: DeadLetter) -> tuple[list[str], list[Any]]:
    """Return the keys and the arguments of ``finish`` in lua/queue.lua that store these letters."""
    places = [keys.queue, keys.letters, keys.letter_places, keys.prefix]
    values: list[Any] = [GROUP, "w1", 60_000, 900, 0, uuid4().hex, 0]
    for one in letters:
        values += ("f", "normal", "", one.task_id, 0, "", 0, one.task_name, "failed", "", "")
        values += (1, "d", one.to_json())
    return places, values


def in_mongodb(queue: TaskWorker, settings: Settings) -> MongoStore:
    """Return the store in the MongoDB that is open."""
    return MongoStore(queue.redis, settings.redis_key_prefix, mongo_database.get())


async def payload_of(queue: TaskWorker, *args: Any, task_id: str = "t1", **fields: Any) -> bytes:
    """Return the signed payload of a call, as an enqueue stores it."""
    data = {"f": "send_invoice", "a": args, "k": {}, "t": 1, **fields}
    return queue.client.codec.seal(await queue.serialize(data), Kind.CALL, task_id)


def make_letter(task_id: str, **changes: Any) -> DeadLetter:
    """Return a dead letter with defaults for all fields that are not given."""
    values: dict[str, Any] = {
        "task_name": "send_invoice",
        "task_id": task_id,
        "error": "no address",
        "error_type": "ValueError",
        "tries": 3,
        "failed_at": datetime.now(UTC).replace(microsecond=0),
        "cause": Cause.EXCEPTION,
        "args": [],
        "kwargs": {},
        "traceback": "ValueError: no address",
        "worker_id": "w1",
        "queue": "shop",
        "enqueued_at": datetime(2026, 1, 1, tzinfo=UTC),
        "fingerprint": "f1",
    }
    return DeadLetter(**{**values, **changes})


async def enqueued(queue: TaskWorker, task_id: str) -> int:
    """Return the number of messages in the queue for a task of this id."""
    entries = await queue.redis.xrange(queue.stream_key + queue.priorities[-1], "-", "+")
    return sum(entry.field_values["task_id"] == task_id for entry in entries)
