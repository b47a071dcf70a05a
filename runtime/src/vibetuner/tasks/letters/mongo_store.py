"""The store of dead letters in MongoDB; loaded only if MongoDB is used."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from pymongo.errors import PyMongoError

from vibetuner.config import get_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis import answer_seconds
from vibetuner.redis.keys import Keys
from vibetuner.resources.mongo import Database, unreachable
from vibetuner.state import request_seconds
from vibetuner.stored import Unreadable, read_or_none, read_record
from vibetuner.tasks.letters.letter import Act, DeadLetter, Filters, Group
from vibetuner.tasks.letters.relay import (
    COLLECTION,
    OPEN,
    group_letters,
    insert_letters,
    move_letters,
)
from vibetuner.tasks.letters.requeue import Requeue
from vibetuner.tasks.letters.search import read_groups
from vibetuner.tasks.letters.store import Page, bad_end, unreadable
from vibetuner.tasks.letters.stream import Client, find_letter

MOVING_SECONDS = 0.2
NEWEST_FIRST = [("failed_at", -1), ("_id", -1)]


class MongoStore:
    """The collection ``dead_letters``. Letters that wait in the stream are moved before each read.

    Every method raises ServiceUnavailable if MongoDB does not answer.
    """

    def __init__(self, database: Database, redis: Client, prefix: str, requeue: Requeue) -> None:
        self._database = database
        self._letters = database[COLLECTION]
        self._redis = redis
        self._prefix = prefix
        self._requeue = requeue

    async def page(self, filters: Filters, *, limit: int, after: str | None) -> Page:
        """Implement :meth:`Store.page`; a page's end is the time and the id of its last letter."""
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
            _end(last) if last else None,
            [
                str(values["_id"])
                for values, letter in zip(found[:limit], letters, strict=False)
                if letter is None
            ],
        )

    async def count(self, filters: Filters) -> int:
        """Implement :meth:`Store.count`."""
        groups = await self._counted(filters) if filters.open_only else None
        if groups is not None and (number := filters.count(groups)) is not None:
            return number
        async with self._up_to_date():
            return await self._letters.count_documents(_query(filters))

    async def groups(self, filters: Filters) -> list[Group]:
        """Implement :meth:`Store.groups`."""
        groups = await self._counted(filters)
        if groups is None:
            async with self._up_to_date():
                groups = await group_letters(self._database, _query(filters))
        return sorted(groups, key=lambda group: (-group.count, group.fingerprint))

    async def _counted(self, filters: Filters) -> list[Group] | None:
        """Return the groups that workers keep in Redis; None until one has counted them."""
        keys = Keys(self._prefix)
        if not await self._redis.exists([keys.letters_counted]):
            return None
        kept = await read_groups(self._redis, keys)
        return [group for group in kept.groups if filters.match(group)]

    async def get(self, task_id: str) -> DeadLetter | None:
        """Implement :meth:`Store.get`."""
        async with self._up_to_date():
            found = await self._letters.find_one({"_id": task_id})
        if not found:
            return await find_letter(self._redis, self._prefix, task_id)
        try:
            return read_record(DeadLetter, found)
        except Unreadable as error:
            raise unreadable(task_id, error) from None

    async def ids(self, beginning: str, *, limit: int) -> list[str]:
        """Implement :meth:`Store.ids`."""
        wanted = {"_id": {"$gte": beginning, "$lt": f"{beginning}\uffff"}}
        async with self._up_to_date():
            found = self._letters.find(wanted, {"_id": 1}).sort("_id", 1).limit(limit)
            return [str(one["_id"]) async for one in found]

    async def settle(self, letter: DeadLetter, act: Act, payload: bytes | None) -> Act:
        """Implement :meth:`Store.settle`: Redis decides, then the record in MongoDB is updated.

        Between the two steps the mark in Redis replaces the record: a second caller gets the same
        answer, and completes the record.
        """
        decided = await self._requeue.settle(letter, act, payload)
        async with _answering(answer_seconds()):
            await insert_letters(self._database, [letter])  # it may still be in the stream
            await self._letters.update_one({"_id": letter.task_id}, {"$set": decided.fields()})
        await self._requeue.forget(letter.task_id)
        return decided

    @asynccontextmanager
    async def _up_to_date(self) -> AsyncIterator[None]:
        # Each batch has its own limit. A request leaves the rest to the workers; a command, which
        # may retry or discard all letters, moves all of them first.
        seconds = MOVING_SECONDS if request_seconds.get() else math.inf
        async with _answering(None):
            await move_letters(self._redis, self._database, self._prefix, seconds=seconds)
        async with _answering(answer_seconds()):
            yield


@asynccontextmanager
async def _answering(limit: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit):
            yield
    except (PyMongoError, TimeoutError) as error:
        reason = error if str(error) else TimeoutError(f"no answer within {limit:g} s")
        raise ServiceUnavailable(unreachable(get_settings(), reason)) from error


def _query(filters: Filters) -> dict[str, Any]:
    exact = {
        "task_name": filters.task,
        "cause": filters.cause and filters.cause.value,
        "fingerprint": filters.fingerprint,
        "failed_at": filters.since and {"$gte": filters.since},
    }
    wanted = {name: value for name, value in exact.items() if value is not None}
    return {**wanted, **OPEN} if filters.open_only else wanted


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


def _end(letter: DeadLetter) -> str:
    return f"{letter.failed_at.isoformat()} {letter.task_id}"
