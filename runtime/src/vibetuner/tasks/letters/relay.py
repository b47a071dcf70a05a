"""Moves dead letters from the stream to MongoDB, for as long as a worker lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vibetuner.tasks.letters.letter import DeadLetter
from vibetuner.tasks.letters.stream import Client, read_letters, remove_letters
from vibetuner.timing import backoff

if TYPE_CHECKING:
    from coredis import Redis
    from pymongo.asynchronous.database import AsyncDatabase

    Database = AsyncDatabase[dict[str, Any]]

__all__ = ["COLLECTION", "move_letters", "relaying"]

logger = logging.getLogger(__name__)

COLLECTION = "dead_letters"
POLL_SECONDS = 0.5
LONGEST_PAUSE = 30
ANSWER_SECONDS = 10

# What the filters of lists ask for; a compound with _id is more than the embedded server takes.
INDEXES = (
    [("failed_at", -1)],
    *([(field, 1), ("failed_at", -1)] for field in ("task_name", "cause", "fingerprint")),
)

DUPLICATE_KEY = 11000
LARGEST_PAYLOAD = 12_000_000  # a document of MongoDB has 16 MB at the most


@asynccontextmanager
async def relaying(redis: Redis[str], database: Database, prefix: str) -> AsyncIterator[None]:
    """Move letters in the background; the tasks never wait for MongoDB."""
    relay = asyncio.create_task(_relay(redis, database, prefix))
    try:
        yield
    finally:
        relay.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await relay


async def move_letters(redis: Client, database: Database, prefix: str) -> int:
    """Move what the stream holds now; returns how many letters that were.

    A letter that was moved and not yet removed is moved again, onto itself.
    """
    moved = 0
    while letters := await read_letters(redis, prefix):
        for streamed in letters:
            await _insert_once(database, streamed.letter)
        await remove_letters(redis, prefix, letters)
        moved += len(letters)
    return moved


async def _insert_once(database: Database, letter: DeadLetter) -> None:
    values = _fitting(letter).to_document()
    try:
        # A frozen server takes what is sent and says nothing, for as long as it is frozen.
        async with asyncio.timeout(ANSWER_SECONDS):
            await database[COLLECTION].update_one(
                {"_id": letter.task_id}, {"$setOnInsert": values}, upsert=True
            )
    except TimeoutError:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS} s") from None
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
