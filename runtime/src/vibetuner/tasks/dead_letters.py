"""Dead letters: the records of tasks that will not be retried, and functions for them.

::

    async with open_dead_letters():  # only in a script; a lifespan has it open
        page = await list_letters(task="send_webhook")
        for letter in page.letters:
            await retry(letter.task_id)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Literal

from vibetuner.config import get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import DeadLetterError, DeadLetterNotFound, ServiceUnavailable, VibetunerError
from vibetuner.redis.client import answering
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.attempt import Cause
from vibetuner.tasks.client.queue import QueueClient
from vibetuner.tasks.letters.letter import Act, DeadLetter, Filters, Group, Page, retry_id
from vibetuner.tasks.letters.requeue import Retry, make_retry
from vibetuner.tasks.letters.stream import StreamStore
from vibetuner.tasks.worker import get_worker, open_queue

__all__ = [
    "Cause",
    "DeadLetter",
    "Page",
    "count",
    "discard",
    "get",
    "groups",
    "list_letters",
    "open_dead_letters",
    "retry",
]

# The beginning of an id, which has 32 characters.
BEGINNING = re.compile(r"[\w-]{8,31}", re.ASCII)
NAMED = 3

PAGE = 100
SETTLED_AT_ONCE = 50

Verb = Literal["retry", "discard"]


@asynccontextmanager
async def open_dead_letters() -> AsyncIterator[None]:
    """Open the resources that these functions need, in scripts; a lifespan has them open already.

    Resources that are open already are used, and stay open.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: Redis, or a configured MongoDB, does not answer.
    """
    async with AsyncExitStack() as stack:
        settings = await stack.enter_async_context(open_services(get_settings()))
        if not _queue_is_open():
            await stack.enter_async_context(open_queue())
        if settings.mongodb_url and mongo_database.peek() is None:
            # Imported here, so that a process loads only the drivers that it uses.
            mongo = import_module("vibetuner.resources.mongo")
            await stack.enter_async_context(mongo.open_database(settings))
        yield


async def list_letters(  # noqa: PLR0913 - filters, each with its name
    *,
    task: str | None = None,
    cause: Cause | None = None,
    fingerprint: str | None = None,
    since: datetime | None = None,
    open_only: bool = True,
    limit: int = 50,
    after: str | None = None,
) -> Page:
    """Return a page of dead letters, the newest first.

    Args:
        task: only letters of the task of this name.
        cause: only letters of this cause.
        fingerprint: only letters with this fingerprint, which identifies a bug.
        since: only tasks that failed at this time or later; with a time zone.
        open_only: leave out letters that were retried or discarded.
        limit: the largest number of letters to return.
        after: the ``next`` of the page before.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
        ValueError: ``limit`` is less than 1, or ``since`` has no time zone.
    """
    filters = Filters(
        task=task, cause=cause, fingerprint=fingerprint, since=since, open_only=open_only
    )
    return await find(filters, limit=limit, after=after)


async def count(
    *,
    task: str | None = None,
    cause: Cause | None = None,
    fingerprint: str | None = None,
    since: datetime | None = None,
    open_only: bool = True,
) -> int:
    """Return how many dead letters match; the filters are those of :func:`list_letters`.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
        ValueError: ``since`` has no time zone.
    """
    return await total(
        Filters(task=task, cause=cause, fingerprint=fingerprint, since=since, open_only=open_only)
    )


async def find(filters: Filters, *, limit: int, after: str | None = None) -> Page:
    """Return a page of the letters that match."""
    if limit < 1:
        raise ValueError(f"limit takes at least 1, not {limit!r}")
    async with _answering():
        return await _store().page(filters, limit=limit, after=after)


async def total(filters: Filters) -> int:
    """Return how many letters match."""
    async with _answering():
        return await _store().count(filters)


async def groups(*, task: str | None = None) -> list[Group]:
    """Return the open dead letters by bug, the one with the most letters first.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
    """
    async with _answering():
        return await _store().groups(Filters(task=task))


async def get(task_id: str) -> DeadLetter:
    """Return the dead letter of a task, by its id or the id's first 8 characters, as in logs.

    Raises:
        DeadLetterError: the letter can't be read, or several ids begin like this.
        DeadLetterNotFound: there is no such letter.
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
    """
    async with _answering():
        store = _store()
        letter = await store.get(task_id)
        if letter is None and BEGINNING.fullmatch(task_id):
            ids = await store.ids(task_id, limit=NAMED + 1)
            if len(ids) > 1:
                named = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
                raise DeadLetterError(
                    f"Several dead letters begin with {task_id}: {named}. Type more of the id"
                )
            letter = await store.get(ids[0]) if ids else None
    if letter is None:
        raise DeadLetterNotFound(
            f"There is no dead letter of {task_id}. See:  vibetuner dead-letters list --all"
        )
    return letter


async def letter_ids(beginning: str, *, limit: int) -> list[str]:
    """Return the ids of dead letters that begin like this, in order.

    Raises:
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
    """
    async with _answering():
        return await _store().ids(beginning, limit=limit)


async def retry(letter: str | DeadLetter, *, by: str | None = None) -> str:
    """Enqueue a dead letter's task again, with its arguments; return the new task's id.

    A letter is retried once: later and simultaneous calls return the same id.

    Args:
        letter: the task's id, or the letter itself.
        by: the person who asks, for the record.

    Raises:
        DeadLetterError: the letter was discarded, or its arguments are gone or can't be trusted.
        DeadLetterNotFound: there is no such letter.
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
        RedisFull: Redis has no memory left for the task.
        NotDurable: ENQUEUE_DURABLE is set, and there is no confirmation in time; a later retry
            returns the same id once the task is durable.
    """
    letter = await get(letter) if isinstance(letter, str) else letter
    if letter.is_open:
        worker, send = get_worker(), _send_durably if get_settings().enqueue_durable else None
        task = make_retry(letter, worker, worker.client.keys, worker.client.codec, send)
        act = Act(at=datetime.now(UTC), by=by, retried_as=retry_id(letter))
        letter = await _settle(letter, act, task)
    if letter.retried_as is None:
        raise DeadLetterError(_refusal(letter, "retried"))
    return letter.retried_as


async def discard(letter: str | DeadLetter, *, by: str | None = None) -> None:
    """Close a dead letter without a retry; the record is kept.

    Raises:
        DeadLetterError: the letter was retried.
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue or MongoDB is not open here, or does not answer.
        DeadLetterNotFound: there is no such letter.
    """
    letter = await get(letter) if isinstance(letter, str) else letter
    if letter.is_open:
        letter = await _settle(letter, Act(at=datetime.now(UTC), by=by), None)
    if letter.discarded_at is None:
        raise DeadLetterError(_refusal(letter, "discarded"))


@dataclass(frozen=True, slots=True)
class Settled:
    """A letter, and the id that a retry enqueued or the reason why nothing was done."""

    task_id: str
    new_id: str | None = None
    refusal: str = ""


@dataclass(slots=True)
class Outcome:
    """The settled letters with their new ids, and the refused ones with the reason.

    ``error`` is the error that stopped the work before the last letter.
    """

    done: dict[str, str | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    error: VibetunerError | None = None

    def add(self, one: Settled) -> None:
        """Add one letter."""
        if one.refusal:
            self.refused[one.task_id] = one.refusal
        else:
            self.done[one.task_id] = one.new_id


async def settle(
    verb: Verb, letters: AsyncIterable[str | DeadLetter], *, by: str | None
) -> AsyncIterator[Settled]:
    """Retry or discard each letter, given as a letter or as its task's id.

    Letters are settled many at once, so that durable retries share their waits.

    Raises:
        ServiceUnavailable: Redis or MongoDB does not answer; the letters yielded so far are done.
        NotDurable: a durable retry is not confirmed; the letters yielded so far are done.
    """
    some: list[str | DeadLetter] = []
    async for letter in letters:
        some.append(letter)
        if len(some) == SETTLED_AT_ONCE:
            async for one in _settle_some(verb, some, by):
                yield one
            some = []
    async for one in _settle_some(verb, some, by):
        yield one


async def _settle_some(
    verb: Verb, letters: list[str | DeadLetter], by: str | None
) -> AsyncIterator[Settled]:
    settling = (_settle_one(verb, letter, by) for letter in letters)
    ends = await asyncio.gather(*settling, return_exceptions=True)
    for end in sorted(ends, key=lambda end: isinstance(end, BaseException)):
        if isinstance(end, BaseException):
            raise end
        yield end


async def _settle_one(verb: Verb, letter: str | DeadLetter, by: str | None) -> Settled:
    task_id = letter if isinstance(letter, str) else letter.task_id
    try:
        letter = await get(letter) if isinstance(letter, str) else letter
        task_id = letter.task_id  # only the beginning of the id may have been given
        if verb == "retry":
            return Settled(task_id, await retry(letter, by=by))
        await discard(letter, by=by)
    except DeadLetterError as error:
        return Settled(task_id, refusal=str(error))
    return Settled(task_id)


async def matching(
    filters: Filters, *, limit: int | None = None, known: int | None = None
) -> AsyncIterator[DeadLetter]:
    """Yield at most ``limit`` letters, newest first, without letters that are added meanwhile.

    ``known`` is the number that matched when a person was asked; letters added since are left out.
    """
    newer = 0 if known is None else max(0, await total(filters) - known)
    after, left = None, limit
    while left is None or left > 0:
        page = await find(filters, limit=PAGE, after=after)
        letters, newer = page.letters[newer:], max(0, newer - len(page.letters))
        for letter in letters[:left]:
            yield letter
        left = None if left is None else left - len(letters)
        after = page.next
        if after is None:
            return


async def _settle(letter: DeadLetter, act: Act, task: Retry | None) -> DeadLetter:
    """Return the letter with the act that was decided on: this one, or an earlier one."""
    async with _answering():
        decided = await _store().settle(letter, act, task)
    return letter.acted_on(**decided.fields())


def _queue_is_open() -> bool:
    try:
        return bool(get_worker().redis)
    except VibetunerError:
        return False


def _answering() -> AbstractAsyncContextManager[None]:
    """Limit the time of each command, however many there are."""
    return answering(get_settings(), None)


def _store() -> StreamStore:
    settings, redis = get_settings(), get_worker().redis
    if not settings.mongodb_url:
        return StreamStore(redis, settings.redis_key_prefix)
    database = mongo_database.peek()
    if database is None:
        raise ServiceUnavailable(
            "MongoDB is not open here. In a script:  async with open_dead_letters(): "
            "(from vibetuner.tasks.dead_letters)"
        )
    mongo = import_module("vibetuner.tasks.letters.mongo")
    store: StreamStore = mongo.MongoStore(redis, settings.redis_key_prefix, database)
    return store


async def _send_durably(keys: list[str], values: list[Any], what: str) -> str:
    async def write(client: QueueClient) -> str:
        async with client.answering():
            decided: bytes = await client.functions.call("settle_letter", keys, values)
        return decided.decode()

    return await get_worker().client.durable.keep(write, what)


def _refusal(letter: DeadLetter, verb: str) -> str:
    return f"{letter.task_name} {letter.task_id} was {letter.act}, so it is not {verb}"
