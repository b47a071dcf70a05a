"""Queries of dead letters, which MongoDB and the stream answer alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest

from tests.runtime.tasks.letters.conftest import Bury, enqueued, make_letter
from vibetuner.cli.checks.services import _look_at_letters
from vibetuner.config import Settings, using_settings
from vibetuner.errors import (
    DeadLetterError,
    DeadLetterNotFound,
    NotConfigured,
    ServiceUnavailable,
    VibetunerError,
)
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.dead_letters import (
    Cause,
    count,
    discard,
    get,
    groups,
    list_letters,
    open_dead_letters,
    retry,
)
from vibetuner.tasks.inspect.detail import find_task
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.letters.mongo import count_unreadable
from vibetuner.tasks.worker import TaskWorker, open_queue

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


async def test_a_letter_comes_back_as_it_was_written(store: str, bury: Bury):
    """A letter is read with every field that was written, to the millisecond and to the byte."""
    written = await bury(
        "t1", "acme", kwargs={"$gt": 1, "a.b": [None, True, 1.5]}, payload=b"\x80\x00",
        failed_at=NOON + timedelta(milliseconds=7), enqueued_at=None,
    )  # fmt: skip

    assert await get("t1") == written


async def test_a_missing_letter_raises_our_lookup_error(store: str, bury: Bury):
    """DeadLetterNotFound is a LookupError, and names the command that lists dead letters."""
    for act in (get, retry, discard):
        with pytest.raises(DeadLetterNotFound, match="no dead letter of t9. See: ") as caught:
            await act("t9")
        assert isinstance(caught.value, LookupError)
        assert isinstance(caught.value, VibetunerError)


async def test_the_newest_come_first_page_by_page(store: str, bury: Bury):
    """Pages of dead letters neither omit nor repeat any, not even letters of the same moment."""
    for number in range(7):
        await bury(f"t{number}", failed_at=NOON + timedelta(seconds=number // 3))

    pages, after = [], None
    while True:
        page = await list_letters(limit=2, after=after)
        pages.append([letter.task_id for letter in page.letters])
        after = page.next
        if after is None:
            break

    assert pages == [["t6", "t5"], ["t4", "t3"], ["t2", "t1"], ["t0"]]


async def test_letters_since_the_first_year_are_all(store: str, bury: Bury):
    """Each time of Python's may be given as `since`, as one that was computed or typed may be."""
    await bury("t1")
    for since in (datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=timezone.max)):
        assert [one.task_id for one in (await list_letters(since=since)).letters] == ["t1"]
        assert await count(since=since, task="send_invoice") == 1


async def test_the_last_page_has_no_next(store: str, bury: Bury):
    """The last page has no `next`, even if it is full."""
    for number in range(4):
        await bury(f"t{number}", failed_at=NOON + timedelta(seconds=number))

    first = await list_letters(limit=2)
    second = await list_letters(limit=2, after=first.next)

    assert [letter.task_id for letter in second.letters] == ["t1", "t0"]
    assert second.next is None


async def test_letters_are_chosen_by_task_cause_bug_and_time(store: str, bury: Bury):
    """list_letters() and count() take each filter alone, and several together."""
    await bury("a", task_name="pack", fingerprint="f3", failed_at=NOON)
    late = {"cause": Cause.TIMEOUT, "fingerprint": "f4"}
    await bury("b", **late, failed_at=NOON + timedelta(seconds=1))
    await bury("c", fingerprint="f2", failed_at=NOON + timedelta(seconds=2))
    await bury("d", **late, failed_at=NOON + timedelta(seconds=3))

    for filters, expected in [
        ({}, "dcba"),
        ({"task": "pack"}, "a"),
        ({"cause": Cause.TIMEOUT}, "db"),
        ({"fingerprint": "f2"}, "c"),
        ({"since": NOON + timedelta(seconds=1)}, "dcb"),
        ({"since": NOON + timedelta(seconds=2), "cause": Cause.TIMEOUT}, "d"),
        ({"task": "nobody"}, ""),
    ]:
        page = await list_letters(**filters)
        assert "".join(letter.task_id for letter in page.letters) == expected, filters
        assert await count(**filters) == len(expected), filters


async def test_filters_hold_on_every_page(store: str, bury: Bury):
    """The filters hold on every page, as `after` does not replace them."""
    for number in range(6):
        cause = Cause.TIMEOUT if number % 2 else Cause.EXPIRED
        await bury(f"t{number}", cause=cause, failed_at=NOON + timedelta(seconds=number // 4))

    wanted = {"cause": Cause.TIMEOUT, "since": NOON, "limit": 1}
    first = await list_letters(**wanted)
    second = await list_letters(**wanted, after=first.next)
    third = await list_letters(**wanted, after=second.next)

    found = [letter.task_id for page in (first, second, third) for letter in page.letters]
    assert found == ["t5", "t3", "t1"]
    assert third.next is None


async def test_a_settled_letter_is_hidden_but_kept(store: str, bury: Bury):
    """A settled letter counts only with ``open_only=False``, and keeps what was done and when."""
    for task_id in "abc":
        await bury(task_id)
    new_id = await retry("a", by="ann")
    await discard("b")

    assert [letter.task_id for letter in (await list_letters()).letters] == ["c"]
    assert await count() == 1
    assert await count(open_only=False) == 3
    retried, discarded = await get("a"), await get("b")
    assert (retried.retried_as, retried.acted_by) == (new_id, "ann")
    assert datetime.now(UTC) - retried.retried_at < timedelta(seconds=20)
    assert datetime.now(UTC) - discarded.discarded_at < timedelta(seconds=20)
    assert discarded.retried_as is None


async def test_wrong_parameters_are_named(store: str, bury: Bury):
    """A wrong `limit`, `since` or `after` raises an error that names it."""
    with pytest.raises(ValueError, match="limit takes at least 1, not 0"):
        await list_letters(limit=0)
    with pytest.raises(ValueError, match="since takes a time with a time zone"):
        await list_letters(since=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(DeadLetterError, match="after= takes the `next` of an earlier page"):
        await list_letters(after="page 2")


async def test_letters_that_wait_in_the_stream_are_seen(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """A query moves the letters that wait in the stream to MongoDB, without a worker."""
    await bury("t1")

    assert await count() == 1
    assert await queue.redis.xlen(f"{settings.redis_key_prefix}dead_letters") == 0
    assert await mongo_database.get()["dead_letters"].count_documents({"task_id": "t1"}) == 1


async def test_acts_without_mongodb_are_moved_to_mongodb(settings: Settings, bury: Bury):
    """Retries and discards that were recorded in the stream are kept when MongoDB is added."""
    with using_settings(settings.model_copy(update={"mongodb_url": None})):
        for task_id in "abc":
            await bury(task_id)
        new_id = await retry("a", by="ann")
        await discard("b")

    assert (await get("a")).retried_as == await retry("a") == new_id
    assert (await get("b")).discarded_at is not None
    assert await count() == 1


async def test_one_task_has_one_letter(store: str, bury: Bury):
    """The first letter of a task is kept, though a task of a lost worker may write a second one."""
    await bury("t1", cause=Cause.TIMEOUT)
    await bury("t1", cause=Cause.CRASHED)
    assert await count() == 1

    await bury("t1", cause=Cause.CRASHED)
    assert (await get("t1")).cause is Cause.TIMEOUT
    assert await count() == 1


async def test_an_id_that_is_used_again_has_a_letter_of_its_own(
    store: str, bury: Bury, queue: TaskWorker
):
    """A task whose id had a settled letter gets an open one, which can be retried."""
    first = await bury("acme-2026-11", 1)
    retried = await retry("acme-2026-11")
    second = await bury("acme-2026-11", 2, enqueued_at=first.enqueued_at + timedelta(days=1))
    assert await count() == 1
    assert await count(open_only=False) == 1
    letter = await get("acme-2026-11")
    assert (letter.args, letter.is_open) == ([2], True)
    assert [group.count for group in await groups()] == [1]

    again = await retry("acme-2026-11")
    assert again != retried
    assert await enqueued(queue, again) == 1
    assert await retry("acme-2026-11") == again
    assert await count() == 0
    await bury("acme-2026-11", 2, enqueued_at=second.enqueued_at)  # by a worker that was lost
    assert (await get("acme-2026-11")).retried_as == again


async def test_without_an_open_queue_the_error_names_the_cure(settings: Settings):
    """ServiceUnavailable names what is not open, the queue or the dead letters."""
    with pytest.raises(ServiceUnavailable, match="queue is not open here"):
        await count()
    async with open_queue():
        with pytest.raises(ServiceUnavailable, match=r"async with open_dead_letters\(\)"):
            await count()
        async with open_dead_letters():
            assert await count() == 0


async def test_without_redis_there_are_no_dead_letters(settings: Settings):
    """open_dead_letters() raises NotConfigured in a project without Redis."""
    with (
        using_settings(settings.model_copy(update={"redis_url": None})),
        pytest.raises(NotConfigured, match="Redis not configured"),
    ):
        async with open_dead_letters():
            pass


async def test_a_stream_of_hundreds_is_searched_to_its_end(
    settings: Settings, queue: TaskWorker, bury: Bury
):
    """Groups, lists and counts cover a long stream to its end, past entries that can't be read."""
    with using_settings(settings.model_copy(update={"mongodb_url": None})):
        for number in range(450):
            await bury(f"t{number}", fingerprint="rare" if number % 100 == 7 else "often")
        newer = make_letter("t9999").to_json().replace('"exception"', '"a_cause_of_tomorrow"')
        for text in ("garbage", "[1]", "7", '{"task_id": 3}', newer):
            await queue.redis.xadd(f"{settings.redis_key_prefix}dead_letters", {"letter": text})
        by_bug = {group.fingerprint: group.count for group in await groups()}
        rare = await list_letters(fingerprint="rare", limit=3)
        rest = await list_letters(fingerprint="rare", limit=3, after=rare.next)
        counted = await count(fingerprint="rare")

    assert {name: by_bug[name] for name in ("rare", "often")} == {"rare": 5, "often": 445}
    assert [letter.task_id for letter in rare.letters] == ["t407", "t307", "t207"]
    assert [letter.task_id for letter in rest.letters] == ["t107", "t7"]
    assert (rest.next, counted) == (None, 5)


async def test_a_letter_is_found_by_the_first_characters_of_its_id(store: str, bury: Bury):
    """Eight characters find a letter, and raise an error with the ids if they fit several.

    Fewer characters find nothing.
    """
    await bury("0123456789abcdef")
    await bury("0123456789abcdee")
    await bury("f123456789abcdef")

    assert (await get("f1234567")).task_id == "f123456789abcdef"
    with pytest.raises(DeadLetterError, match="Several dead letters begin with 01234567: .*dee, "):
        await get("01234567")
    with pytest.raises(DeadLetterNotFound):
        await get("f12")
    with pytest.raises(DeadLetterNotFound):
        await get("f12345678*")


async def test_an_unreadable_document_blocks_no_other(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """A list names an unreadable document by its id, and get() raises DeadLetterError for it.

    So does find_task(), if nothing else is left of the task.
    """
    await bury("a")
    await mongo_database.get()["dead_letters"].insert_one({"_id": "bad", "failed_at": 5})

    page = await list_letters(open_only=False)

    assert [letter.task_id for letter in page.letters] == ["a"]
    assert page.unreadable == ["bad"]
    assert await count_unreadable(mongo_database.get()) == 1
    for find in (get, partial(find_task, this_queue())):
        with pytest.raises(DeadLetterError, match=r"of bad can't be read \("):
            await find("bad")


async def test_the_doctor_counts_unreadable_documents(
    settings: Settings, bury: Bury, queue: TaskWorker
):
    """The doctor warns of documents that can't be read, with their number."""
    await bury("a")
    assert await _look_at_letters(settings) == []
    await mongo_database.get()["dead_letters"].insert_one({"_id": "bad", "failed_at": 5})
    (found,) = await _look_at_letters(settings)
    assert (found.level, found.area) == ("warning", "records")
    assert found.text.startswith("1 of the newest dead letters in it can't be read")
