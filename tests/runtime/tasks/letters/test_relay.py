"""Dead letters move from the stream to MongoDB, each once, and none blocks the others."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.runtime.tasks.letters.conftest import Bury, in_mongodb, make_letter
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.dead_letters import count, get
from vibetuner.tasks.letters.mongo import NEWEST_FIRST, relaying
from vibetuner.tasks.letters.stream import StreamStore
from vibetuner.tasks.worker import TaskWorker

FILTERS: list[tuple[str, ...]] = [(), ("task_name",), ("cause",), ("fingerprint",)]


async def test_letters_arrive_and_leave_the_stream(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """Dead letters are moved to MongoDB, and Redis keeps only the groups and an empty stream."""
    for number in range(3):
        await bury(f"t{number}")
    prefix = settings.redis_key_prefix

    async with relaying(in_mongodb(queue, settings)):

        async def is_empty() -> bool:
            return not await queue.redis.xlen(f"{prefix}dead_letters")

        await eventually(is_empty)

    documents = await mongo_database.get()["dead_letters"].find({}).to_list()
    assert {document["_id"] for document in documents} == {"t0", "t1", "t2"}
    left = {key async for key in queue.redis.scan_iter(f"{prefix}*", count=10_000)}
    assert {key for key in left if ":groups" not in str(key)} == {f"{prefix}dead_letters"}


async def test_each_list_has_an_index_with_the_order_of_its_pages(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """A worker makes an index for each filter, as otherwise MongoDB would sort the whole list."""
    await bury("t1")
    collection = mongo_database.get()["dead_letters"]
    async with relaying(in_mongodb(queue, settings)):

        async def found() -> set[tuple[str, ...]]:
            indexes = (await collection.index_information()).values()
            keys = [one["key"] for one in indexes]
            return {tuple(f for f, _ in key) for key in keys if key[-2:] == NEWEST_FIRST}

        wanted = {(*field, "failed_at", "_id") for field in FILTERS}

        async def are_made() -> bool:
            return await found() == wanted

        await eventually(are_made)


async def test_a_letter_that_is_delivered_twice_is_one_document(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """Relays that move letters at once, or move one again, make one document of each letter."""
    store = in_mongodb(queue, settings)
    for number in range(30):
        await bury(f"t{number}")

    await asyncio.gather(*(store.move() for _ in range(4)))
    await bury("t3")
    await store.move()

    assert await count() == 30


async def test_a_second_delivery_keeps_the_record_of_a_retry(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """A letter that is delivered again keeps the record of its retry."""
    database = mongo_database.get()
    await bury("t1")
    await in_mongodb(queue, settings).move()
    await database["dead_letters"].update_one({"_id": "t1"}, {"$set": {"retried_as": "t2"}})
    await bury("t1")
    await in_mongodb(queue, settings).move()

    assert (await get("t1")).retried_as == "t2"


async def test_an_unreadable_entry_blocks_no_other(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """An unreadable entry stays in the stream, and the letters behind it are moved."""
    key = f"{settings.redis_key_prefix}dead_letters"
    newer = make_letter("t0").to_json().replace('"exception"', '"a_cause_of_tomorrow"')
    for number in range(150):
        await queue.redis.xadd(key, {"letter": newer if number % 2 else "garbage"})
    await bury("t1")

    assert await count() == 1
    assert await queue.redis.xlen(key) == 150
    assert await StreamStore(queue.redis, settings.redis_key_prefix).oldest() == {}


async def test_arguments_too_large_for_mongodb_leave_a_letter_without_them(
    bury: Bury, caplog: pytest.LogCaptureFixture
):
    """A letter above MongoDB's limit is stored without its arguments, which the log reports."""
    await bury("large", payload=b"x" * 17_000_000)
    await bury("small")

    with caplog.at_level(logging.WARNING):
        assert await count() == 2

    assert (await get("large")).payload == b""
    assert "send_invoice large is kept without its arguments, 17 MB" in caplog.text
