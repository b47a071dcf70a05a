"""Moves dead letters from the stream to MongoDB, and counts them into groups, beside a worker."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from coredis.tokens import PureToken

from vibetuner.redis import answer_seconds
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import Unreadable, read_record
from vibetuner.tasks.letters.letter import DeadLetter, Group
from vibetuner.tasks.letters.stream import Client, read_letters, remove_letters
from vibetuner.timing import backoff

if TYPE_CHECKING:
    from coredis import Redis
    from pymongo.asynchronous.database import AsyncDatabase

    Database = AsyncDatabase[dict[str, Any]]

__all__ = [
    "COLLECTION",
    "OPEN",
    "count_groups",
    "count_unreadable",
    "group_letters",
    "move_letters",
    "relaying",
]

logger = logging.getLogger(__name__)

COLLECTION = "dead_letters"
BATCH = 100
POLL_SECONDS = 0.5
LONGEST_PAUSE = 30

# What the filters of lists ask for; a compound with _id is more than the embedded server takes.
INDEXES = (
    [("failed_at", -1)],
    *([(field, 1), ("failed_at", -1)] for field in ("task_name", "cause", "fingerprint")),
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

# So often the groups are counted anew, as people may delete letters in MongoDB themselves.
COUNTED_SECONDS = 24 * 3600
COUNTING_SECONDS = 600

DUPLICATE_KEY = 11000
LARGEST_PAYLOAD = 12_000_000  # a document of MongoDB has 16 MB at the most


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


async def move_letters(redis: Client, database: Database, prefix: str) -> int:
    """Move the letters that the stream holds now; return their number.

    A letter that was moved and not yet removed is moved again, onto itself.
    """
    moved = 0
    while letters := await read_letters(redis, prefix):
        for streamed in letters:
            await _insert_once(database, streamed.letter)
        await remove_letters(redis, prefix, letters)
        moved += len(letters)
    return moved


async def group_letters(database: Database, query: Mapping[str, Any]) -> list[Group]:
    """Return the groups of the letters that match, by a look at each; without unreadable ones."""
    steps: list[Mapping[str, Any]] = [
        {"$match": query},
        {"$sort": {"failed_at": -1}},
        {"$group": GROUPED},
    ]
    groups = []
    async for one in await database[COLLECTION].aggregate(steps):
        values = {**one, "fingerprint": one["_id"], "task": one.get("task_name")}
        values["error"] = f"{one.get('error_type')}: {one.get('error')}"
        with suppress(Unreadable):
            groups.append(read_record(Group, values))
    return groups


async def count_groups(redis: Client, database: Database, prefix: str) -> None:
    """Count the letters in MongoDB into the groups in Redis, once a day, whichever worker does it.

    From then on the groups change with each letter. One that is settled in between may be
    counted until the next time.
    """
    keys = Keys(prefix)
    lock = f"{keys.letters_counted}:lock"
    if await redis.exists([keys.letters_counted]) or not await redis.set(
        lock, "1", ex=COUNTING_SECONDS, condition=PureToken.NX
    ):
        return
    await redis.delete([keys.letter_groups])
    groups = await group_letters(database, OPEN)
    texts = [
        json.dumps({**asdict(group), "cause": group.cause.value}, default=datetime.isoformat)
        for group in groups
    ]
    for at in range(0, len(texts), BATCH):
        await Scripts(redis).call("add_groups", [keys.letter_groups], texts[at : at + BATCH])
    await redis.set(keys.letters_counted, "1", ex=COUNTED_SECONDS)
    await redis.delete([lock])


async def count_unreadable(database: Database, looked_at: int = 1000) -> int:
    """Return how many of the newest letters in MongoDB can't be read."""
    number = 0
    async for values in database[COLLECTION].find({}).sort("failed_at", -1).limit(looked_at):
        try:
            DeadLetter.from_document(values)
        except Unreadable:
            number += 1
    return number


async def _insert_once(database: Database, letter: DeadLetter) -> None:
    values, seconds = _fitting(letter).to_document(), answer_seconds()
    try:
        # A frozen server takes what is sent and says nothing, for as long as it is frozen.
        async with asyncio.timeout(seconds):
            await database[COLLECTION].update_one(
                {"_id": letter.task_id}, {"$setOnInsert": values}, upsert=True
            )
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    except Exception as error:
        # Another worker's relay was at it in the same moment.
        if getattr(error, "code", None) != DUPLICATE_KEY:
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
    """Make the indexes that are missing; without them lists are slower, and no less true."""
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
