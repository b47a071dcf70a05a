"""Moves dead letters from the stream to MongoDB, in the worker, and counts them by group."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from coredis.tokens import PureToken

from vibetuner.redis import answer_seconds
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import dump_record, read_or_none
from vibetuner.tasks.letters.letter import DeadLetter, Group
from vibetuner.tasks.letters.search import read_groups
from vibetuner.tasks.letters.stream import Client, read_letters, remove_letters
from vibetuner.timing import backoff

if TYPE_CHECKING:
    from coredis import Redis
    from pymongo.asynchronous.database import AsyncDatabase

    Database = AsyncDatabase[dict[str, Any]]

logger = logging.getLogger(__name__)

COLLECTION = "dead_letters"
BATCH = 100
POLL_SECONDS = 0.5
LONGEST_PAUSE = 30

# An index for each filter of lists, with a page's whole sort order; without _id, MongoDB reads and
# sorts all matching letters for each page.
INDEXES = (
    [("failed_at", -1), ("_id", -1)],
    *(
        [(field, 1), ("failed_at", -1), ("_id", -1)]
        for field in ("task_name", "cause", "fingerprint")
    ),
)

ABSENT = {"$exists": False}
OPEN = {"retried_as": ABSENT, "discarded_at": ABSENT}
GROUPED = {
    "_id": "$fingerprint",
    "count": {"$sum": 1},
    "first": {"$min": "$failed_at"},
    "last": {"$max": "$failed_at"},
    **{name: {"$first": f"${name}"} for name in ("task_name", "cause", "error", "error_type")},
}

# The interval between recounts, as people may delete letters in MongoDB themselves.
COUNTED_SECONDS = 24 * 3600
COUNTING_SECONDS = 600

DUPLICATE_KEY = 11000
LARGEST_PAYLOAD = 12_000_000  # a document of MongoDB may have 16 MB


@asynccontextmanager
async def relaying(redis: Redis[str], database: Database, prefix: str) -> AsyncIterator[None]:
    """Move letters in the background; tasks never wait for MongoDB."""
    relay = asyncio.create_task(_relay(redis, database, prefix))
    try:
        yield
    finally:
        relay.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await relay


async def move_letters(
    redis: Client, database: Database, prefix: str, *, seconds: float = math.inf
) -> int:
    """Move letters from the stream to MongoDB, for at most ``seconds``; return their number.

    A letter that was moved but not yet removed from the stream is moved again, without effect.
    """
    moved, end = 0, time.monotonic() + seconds
    while letters := await read_letters(redis, prefix):
        await insert_letters(database, [streamed.letter for streamed in letters])
        await remove_letters(redis, prefix, letters)
        moved += len(letters)
        if time.monotonic() > end:
            break
    return moved


async def group_letters(database: Database, query: Mapping[str, Any]) -> list[Group]:
    """Group the matching letters by reading each; leave out unreadable ones."""
    steps: list[Mapping[str, Any]] = [
        {"$match": query},
        {"$sort": {"failed_at": -1}},
        {"$group": GROUPED},
    ]
    groups = []
    async for one in await database[COLLECTION].aggregate(steps):
        values = {**one, "fingerprint": one["_id"], "task": one.get("task_name")}
        values["error"] = f"{one.get('error_type')}: {one.get('error')}"
        if group := read_or_none(Group, values):
            groups.append(group)
    return groups


async def count_groups(redis: Client, database: Database, prefix: str) -> None:
    """Count the letters in MongoDB into the groups in Redis, once a day for all workers.

    Groups change with each letter, even during the count. A letter that is settled during the count
    may stay in its group until the next one.
    """
    keys = Keys(prefix)
    places = [keys.letters_counted, keys.letters_fresh]
    if await redis.exists(places) == len(places) or not await redis.set(
        keys.letters_counting, "1", ex=COUNTING_SECONDS, condition=PureToken.NX
    ):
        return
    before = {group.fingerprint: group for group in (await read_groups(redis, keys)).groups}
    counted = {group.fingerprint: group for group in await group_letters(database, OPEN)}
    texts = []
    for fingerprint, group in {**before, **counted}.items():
        more = counted[fingerprint].count if fingerprint in counted else 0
        more -= before[fingerprint].count if fingerprint in before else 0
        texts.append(dump_record(replace(group, count=more)))
    for at in range(0, len(texts), BATCH):
        await Scripts(redis).call("add_groups", [keys.letter_groups], texts[at : at + BATCH])
    await redis.set(keys.letters_fresh, "1", ex=COUNTED_SECONDS)
    await redis.set(keys.letters_counted, "1", ex=30 * COUNTED_SECONDS)
    await redis.delete([keys.letters_counting])


async def count_unreadable(database: Database, looked_at: int = 1000) -> int:
    """Return how many of the newest letters in MongoDB can't be read."""
    newest = database[COLLECTION].find({}).sort("failed_at", -1).limit(looked_at)
    return len([1 async for values in newest if read_or_none(DeadLetter, values) is None])


async def insert_letters(database: Database, letters: Sequence[DeadLetter]) -> None:
    """Insert letters that are not there yet, in one round trip."""
    # Imported here, because a worker without MongoDB does not load its driver.
    operations = import_module("pymongo.operations")
    writes = [
        operations.UpdateOne(
            {"_id": letter.task_id}, {"$setOnInsert": _fitting(letter).to_document()}, upsert=True
        )
        for letter in letters
    ]
    seconds = answer_seconds()
    try:
        # A frozen server accepts the data and never answers.
        async with asyncio.timeout(seconds):
            await database[COLLECTION].bulk_write(writes, ordered=False)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    except Exception as error:
        # Another worker's relay inserted it at the same time.
        errors = (getattr(error, "details", None) or {}).get("writeErrors")
        if not errors or any(one.get("code") != DUPLICATE_KEY for one in errors):
            raise


def _fitting(letter: DeadLetter) -> DeadLetter:
    if len(letter.payload) <= LARGEST_PAYLOAD:
        return letter
    logger.warning(
        "the dead letter of %s %s is kept without its arguments, %d MB are too many for MongoDB: "
        "it can't be retried",
        letter.task_name, letter.task_id, len(letter.payload) // 1_000_000,
    )  # fmt: skip
    return replace(letter, payload=b"")


async def _make_indexes(database: Database) -> None:
    """Create missing indexes; without them lists are slower, but still right."""
    with suppress(Exception):
        for fields in INDEXES:
            await database[COLLECTION].create_index(fields)


async def _relay(redis: Redis[str], database: Database, prefix: str) -> None:
    failures, indexed = 0, False
    while True:
        try:
            if await move_letters(redis, database, prefix) and not indexed:
                await _make_indexes(database)
                indexed = True
            await count_groups(redis, database, prefix)
        except Exception as error:  # noqa: BLE001 - whatever breaks it, the letters stay in the stream
            if not failures:
                reason = str(error).split(",", 1)[0]
                logger.warning("dead letters wait in Redis, MongoDB did not take them: %s", reason)
            failures += 1
            await asyncio.sleep(backoff(failures, 1, LONGEST_PAUSE))
        else:
            if failures:
                logger.info("dead letters are moved to MongoDB again")
            failures = 0
            await asyncio.sleep(POLL_SECONDS)
