"""Dead letters in MongoDB: the store, and the relay that moves them there from the stream.

It is loaded only if MongoDB is used. A worker moves letters and counts them by group.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from coredis.tokens import PureToken
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from vibetuner.config import get_settings
from vibetuner.errors import DeadLetterError, ServiceUnavailable
from vibetuner.redis import answer_seconds
from vibetuner.resources.mongo import Database, unreachable
from vibetuner.state import request_seconds
from vibetuner.stored import Unreadable, dump_record, read_or_none, read_record
from vibetuner.tasks.letters.letter import Act, DeadLetter, Filters, Group, Page
from vibetuner.tasks.letters.plain import headline
from vibetuner.tasks.letters.requeue import Retry
from vibetuner.tasks.letters.stream import BATCH, Client, StreamStore, bad_end, by_size
from vibetuner.timing import backoff

logger = logging.getLogger(__name__)

COLLECTION = "dead_letters"
POLL_SECONDS = 0.5
LONGEST_PAUSE = 30
MOVING_SECONDS = 0.2
# Once the record here holds an act, its mark is kept for people who loaded the letter before.
MARK_TIME = timedelta(days=1)

NEWEST_FIRST = [("failed_at", -1), ("_id", -1)]
# An index for each filter of lists, with a page's whole sort order; without _id, MongoDB reads and
# sorts all matching letters for each page.
INDEXES = (
    NEWEST_FIRST,
    *([(field, 1), *NEWEST_FIRST] for field in ("task_name", "cause", "fingerprint")),
)

ABSENT = {"$exists": False}
OPEN = {"retried_as": ABSENT, "discarded_at": ABSENT}
SETTLED = {"$or": [{name: {"$exists": True}} for name in OPEN]}
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


class MongoStore(StreamStore):
    """The collection ``dead_letters``. Letters that wait in the stream are moved before each read.

    Every method raises ServiceUnavailable if MongoDB does not answer.
    """

    def __init__(self, redis: Client, prefix: str, database: Database) -> None:
        super().__init__(redis, prefix)
        self._letters = database[COLLECTION]

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """Implement :meth:`StreamStore.page`; a page's end is its last letter's time and id."""
        wanted = _query(filters)
        async with self._up_to_date():
            found: list[dict[str, Any]] = []
            for part in _behind(after):
                # One letter more than fits on the page shows whether there is a next page.
                room = limit + 1 - len(found)
                if room:
                    cursor = self._letters.find(_both(wanted, part)).sort(NEWEST_FIRST).limit(room)
                    found += [values async for values in cursor]
        letters = [read_or_none(DeadLetter, values) for values in found]
        last = letters[limit - 1] if len(letters) > limit else None
        return Page(
            [letter for letter in letters[:limit] if letter],
            # Unreadable letters sort after all times, and only such letters follow them.
            f"{last.failed_at.isoformat()} {last.task_id}" if last else None,
            [
                str(values["_id"])
                for values, letter in zip(found[:limit], letters, strict=False)
                if letter is None
            ],
        )

    async def count(self, filters: Filters) -> int:
        groups = await self._counted() if filters.open_only else None
        if groups is not None:
            number = filters.count([group for group in groups if filters.match(group)])
            if number is not None:
                return number
        async with self._up_to_date():
            return await self._letters.count_documents(_query(filters))

    async def groups(self, filters: Filters) -> list[Group]:
        groups = await self._counted()
        if groups is None:
            async with self._up_to_date():
                groups = await self._group(_query(filters))
        return by_size(groups, filters)

    async def get(self, task_id: str) -> DeadLetter | None:
        async with self._up_to_date():
            found = await self._letters.find_one({"_id": task_id})
        if not found:
            return await super().get(task_id)
        try:
            return read_record(DeadLetter, found)
        except Unreadable as error:
            raise DeadLetterError(
                f"The dead letter of {task_id} can't be read ({error}): it is damaged, or of a "
                "newer version of vibetuner"
            ) from None

    async def ids(self, beginning: str, *, limit: int) -> list[str]:
        wanted = {"_id": {"$gte": beginning, "$lt": f"{beginning}\uffff"}}
        async with self._up_to_date():
            found = self._letters.find(wanted, {"_id": 1}).sort("_id", 1).limit(limit)
            return [str(one["_id"]) async for one in found]

    async def settle(
        self, letter: DeadLetter, act: Act, retry: Retry | None, *, keep: bool = False
    ) -> Act:
        """Implement :meth:`StreamStore.settle`: Redis decides, then the record here is updated.

        Between the two steps the mark in Redis replaces the record: a second caller gets the same
        answer, and completes the record.
        """
        decided = await super().settle(letter, act, retry, keep=keep)
        async with _answering(answer_seconds()):
            await self._insert([letter])  # it may still be in the stream
            await self._letters.update_one({"_id": letter.task_id}, {"$set": decided.fields()})
        await self._redis.expire(self._keys.act(letter.task_id), MARK_TIME)
        return decided

    async def move(self, *, seconds: float = math.inf) -> int:
        """Move letters here from the stream, for at most ``seconds``; return their number.

        A letter that was moved but not yet removed from the stream is moved again, without effect.
        """
        moved, end = 0, time.monotonic() + seconds
        while letters := await self.oldest():
            are_new = await self._insert(letters.values())
            await self.remove(letters, () if are_new else await self._unkept(letters))
            moved += len(letters)
            if time.monotonic() > end:
                break
        return moved

    async def count_groups(self) -> None:
        """Count the letters here into the groups in Redis, once a day for all workers.

        Groups change with each letter, even during the count. A letter that is settled during the
        count may stay in its group until the next one.
        """
        redis, keys = self._redis, self._keys
        places = [keys.letters_counted, keys.letters_fresh]
        if await redis.exists(places) == len(places) or not await redis.set(
            keys.letters_counting, "1", ex=COUNTING_SECONDS, condition=PureToken.NX
        ):
            return
        before = {group.fingerprint: group for group in (await self.stored_groups()).groups}
        counted = {group.fingerprint: group for group in await self._group(OPEN)}
        texts = []
        for fingerprint, group in {**before, **counted}.items():
            more = counted[fingerprint].count if fingerprint in counted else 0
            more -= before[fingerprint].count if fingerprint in before else 0
            texts.append(dump_record(replace(group, count=more)))
        for at in range(0, len(texts), BATCH):
            await self._call("add_groups", [keys.letter_groups], texts[at : at + BATCH])
        await redis.set(keys.letters_fresh, "1", ex=COUNTED_SECONDS)
        await redis.set(keys.letters_counted, "1", ex=30 * COUNTED_SECONDS)
        await redis.delete([keys.letters_counting])

    async def make_indexes(self) -> None:
        """Create missing indexes; without them lists are slower, but still right."""
        with suppress(Exception):
            for fields in INDEXES:
                await self._letters.create_index(fields)

    async def _counted(self) -> list[Group] | None:
        """Return the groups that workers keep in Redis; None until one has counted them."""
        if not await self._redis.exists([self._keys.letters_counted]):
            return None
        return (await self.stored_groups()).groups

    async def _group(self, query: Mapping[str, Any]) -> list[Group]:
        """Group the matching letters by reading each; leave out unreadable ones."""
        steps: list[Mapping[str, Any]] = [
            {"$match": query},
            {"$sort": {"failed_at": -1}},
            {"$group": GROUPED},
        ]
        groups = []
        async for one in await self._letters.aggregate(steps):
            values = {**one, "fingerprint": one["_id"], "task": one.get("task_name")}
            values["error"] = headline(str(one.get("error_type")), str(one.get("error") or ""))
            if group := read_or_none(Group, values):
                groups.append(group)
        return groups

    async def _unkept(self, letters: Mapping[str, DeadLetter]) -> set[str]:
        """Return the entries of letters whose tasks have another letter, which stays."""
        ids = {letter.task_id: entry_id for entry_id, letter in letters.items()}
        fields = ("enqueued_at", "failed_at")
        kept = self._letters.find({"_id": {"$in": list(ids)}}, fields)
        async for one in kept:
            letter = letters[ids[one["_id"]]]
            if all(one.get(name) == getattr(letter, name) for name in fields):
                del ids[one["_id"]]
        return set(ids.values())

    async def _insert(self, letters: Iterable[DeadLetter]) -> bool:
        """Insert letters that are not there yet, in one round trip; return whether all are new.

        If an id was used again after its letter had been settled, the new letter replaces it.
        """
        writes: list[UpdateOne | ReplaceOne[dict[str, Any]]] = []
        for letter in letters:
            same, whole = {"_id": letter.task_id}, _fitting(letter).to_document()
            former = {**same, **SETTLED, "enqueued_at": {"$ne": letter.enqueued_at}}
            writes += (
                ReplaceOne(former, whole),
                UpdateOne(same, {"$setOnInsert": whole}, upsert=True),
            )
        seconds = answer_seconds()
        try:
            # A frozen server accepts the data and never answers.
            async with asyncio.timeout(seconds):
                done = await self._letters.bulk_write(writes, ordered=False)
                return done.upserted_count == len(writes) // 2
        except TimeoutError:
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        except BulkWriteError as error:
            # Another worker's relay inserted it at the same time.
            errors = (error.details or {}).get("writeErrors")
            if not errors or any(one.get("code") != DUPLICATE_KEY for one in errors):
                raise
            return False

    @asynccontextmanager
    async def _up_to_date(self) -> AsyncIterator[None]:
        # Each batch has its own limit. A request leaves the rest to the workers; a command, which
        # may retry or discard all letters, moves all of them first.
        async with _answering(None):
            await self.move(seconds=MOVING_SECONDS if request_seconds.get() else math.inf)
        async with _answering(answer_seconds()):
            yield


@asynccontextmanager
async def relaying(store: MongoStore) -> AsyncIterator[None]:
    """Move letters in the background; tasks never wait for MongoDB."""
    relay = asyncio.create_task(_relay(store))
    try:
        yield
    finally:
        relay.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await relay


async def count_unreadable(database: Database, looked_at: int = 1000) -> int:
    """Return how many of the newest letters in MongoDB can't be read."""
    newest = database[COLLECTION].find({}).sort("failed_at", -1).limit(looked_at)
    return len([1 async for values in newest if read_or_none(DeadLetter, values) is None])


async def _relay(store: MongoStore) -> None:
    failures, indexed = 0, False
    while True:
        try:
            if await store.move() and not indexed:
                await store.make_indexes()
                indexed = True
            await store.count_groups()
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


@asynccontextmanager
async def _answering(limit: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit):
            yield
    except (PyMongoError, TimeoutError) as error:
        reason = error if str(error) else TimeoutError(f"no answer within {limit:g} s")
        raise ServiceUnavailable(unreachable(get_settings(), reason)) from error


def _fitting(letter: DeadLetter) -> DeadLetter:
    if len(letter.payload) <= LARGEST_PAYLOAD:
        return letter
    logger.warning(
        "the dead letter of %s %s is kept without its arguments, %d MB are too many for MongoDB: "
        "it can't be retried",
        letter.task_name, letter.task_id, len(letter.payload) // 1_000_000,
    )  # fmt: skip
    return replace(letter, payload=b"")


def _query(filters: Filters) -> dict[str, Any]:
    since = {"failed_at": {"$gte": filters.since}} if filters.since else {}
    return {**filters.exact, **since, **(OPEN if filters.open_only else {})}


def _behind(after: str | None) -> tuple[dict[str, Any], ...]:
    """Return queries for the letters after a page: of the same time, and of earlier times."""
    if after is None:
        return ({},)
    moment, _, task_id = after.partition(" ")
    try:
        failed_at = datetime.fromisoformat(moment)
    except ValueError:
        raise bad_end(after) from None
    return ({"failed_at": failed_at, "_id": {"$lt": task_id}}, {"failed_at": {"$lt": failed_at}})


def _both(wanted: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    since, moment = wanted.get("failed_at"), part.get("failed_at")
    if since and isinstance(moment, dict):
        return {**wanted, "failed_at": {**since, **moment}}
    return {**wanted, **part}
