"""Groups of dead letters, which are counted as letters come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.runtime.tasks.letters.conftest import Bury, keep, make_letter
from vibetuner.config import Settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.redis.keys import Keys
from vibetuner.resources.mongo import open_database
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.dead_letters import count, discard, groups, list_letters, retry
from vibetuner.tasks.letters.mongo import MongoStore
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open, name_database

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Yield settings without MongoDB."""
    own = settings.model_copy(update={"mongodb_url": None})
    with using_settings(own):
        yield own


@pytest.fixture
async def in_mongodb(settings: Settings, servers: Lease) -> AsyncIterator[Settings]:
    """Yield the same settings with an open MongoDB."""
    url = name_database(servers.urls["mongodb"], settings.redis_key_prefix.rstrip(":"))
    own = settings.model_copy(update={"mongodb_url": url})
    with using_settings(own):
        async with held_open(open_database(own)):
            yield own


async def counted() -> dict[str, int]:
    """Return the number of letters of each group."""
    return {group.fingerprint: group.count for group in await groups()}


async def test_a_letter_is_counted_until_somebody_decides(bury: Bury, queue: TaskWorker):
    """An open letter is counted once for each task, until it is retried or discarded."""
    for task_id in ("a", "b", "a"):
        await bury(task_id, fingerprint="f1")
    await bury("c", fingerprint="f2")
    assert await counted() == {"f1": 2, "f2": 1}

    await retry("a")
    await discard("c")
    await discard("c")

    assert await counted() == {"f1": 1}
    assert await count() == await count(fingerprint="f1") == 1


async def test_a_group_of_an_error_without_a_message_has_its_class(bury: Bury, queue: TaskWorker):
    """A group is named by the class of its error if the error has no message."""
    await bury("a", error="", error_type="MemoryError")

    (group,) = await groups()

    assert group.error == "MemoryError"


async def test_a_group_has_its_newest_error_and_its_span(bury: Bury, queue: TaskWorker):
    """A group has its newest error and its first and last time, in whatever order letters come."""
    await bury("new", failed_at=NOW, error="now")
    await bury("old", failed_at=NOW - timedelta(days=2), error="then")

    (group,) = await groups()

    assert (group.error, group.first, group.last) == (
        "ValueError: now",
        NOW - timedelta(days=2),
        NOW,
    )


async def test_the_letters_of_one_bug_are_found_without_a_search(bury: Bury, queue: TaskWorker):
    """list_letters() returns the letters of one fingerprint page by page, the newest first."""
    for n in range(25):
        await bury(f"t{n}", fingerprint="f1")
        await bury(f"u{n}", fingerprint="f2")

    found, after = [], None
    while True:
        page = await list_letters(fingerprint="f1", limit=10, after=after)
        found += [letter.task_id for letter in page.letters]
        after = page.next
        if after is None:
            break

    assert found == [f"t{n}" for n in range(24, -1, -1)]


async def test_letters_in_mongodb_are_counted_by_the_workers(
    settings: Settings, queue: TaskWorker, in_mongodb: Settings
):
    """Workers count letters as they are there, come and are settled, and once a day all anew."""
    database, keys = mongo_database.get(), Keys(in_mongodb.redis_key_prefix)
    store = MongoStore(queue.redis, keys.prefix, database)
    for task_id in ("a", "b", "c"):
        await keep(queue.redis, keys.prefix, make_letter(task_id))
    await store.move()
    await queue.redis.delete([keys.letter_groups])

    await store.count_groups()
    await keep(queue.redis, keys.prefix, make_letter("d"))
    await discard("a")
    await store.count_groups()

    assert await counted() == {"f1": 3}
    assert await count() == 3
    await database["dead_letters"].delete_one({"_id": "b"})
    await queue.redis.delete([keys.letters_counted])
    assert await counted() == {"f1": 2}
    await store.count_groups()
    assert await counted() == {"f1": 2}


async def test_letters_of_a_version_that_kept_no_groups_are_counted(
    bury: Bury, queue: TaskWorker, settings: Settings
):
    """Dead letters of an older version are counted at the first query, past an unreadable one."""
    keys = Keys(settings.redis_key_prefix)
    await bury("a", fingerprint="f1")
    await queue.redis.xadd(keys.letters, {"letter": "{}"})
    await bury("b", fingerprint="f1")
    await bury("c", fingerprint="f2")
    await discard("c")
    await queue.redis.delete([keys.letter_groups, keys.letters_of("f1")])

    assert await counted() == {"f1": 2}
    assert await queue.redis.hget(keys.letter_groups, "?") == "1"
    assert len((await list_letters(fingerprint="f1")).letters) == 2
    assert await counted() == {"f1": 2}


async def test_a_letter_whose_task_has_one_in_mongodb_is_not_counted(
    in_mongodb: Settings, bury: Bury, queue: TaskWorker
):
    """A second letter of an id is dropped while the first one is open, and counts nowhere.

    The same letter counts once, however often it is moved.
    """
    store = MongoStore(queue.redis, in_mongodb.redis_key_prefix, mongo_database.get())
    await store.count_groups()
    await bury("acme", fingerprint="f1", enqueued_at=NOW)
    letters = await store.oldest()
    await store._insert(letters.values())  # a worker is lost before it removes it
    for hours, fingerprint in ((1, "f1"), (2, "f2")):
        later = NOW + timedelta(hours=hours)
        assert await count() == 1
        await bury("acme", fingerprint=fingerprint, enqueued_at=later, failed_at=later)
        assert [letter.enqueued_at for letter in (await list_letters()).letters] == [NOW]
        assert await counted() == {"f1": 1}
    await retry("acme")
    assert (await count(), await counted()) == (0, {})
    await bury("acme", fingerprint="f2", enqueued_at=NOW + timedelta(hours=3))
    assert (await count(), await counted()) == (1, {"f2": 1})
