"""Lists of tasks, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.runtime.tasks.journaled import make_ended, record
from tests.waiting import eventually
from vibetuner.errors import CommandError
from vibetuner.tasks.inspect.listing import list_tasks
from vibetuner.tasks.inspect.model import Filters, State
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.timing import now_ms

FAILED = frozenset({State.FAILED})


async def ids(queue: Queue, limit: int = 7, **filters: object) -> list[str]:
    """Return the ids of all pages, in their order."""
    found, after = [], None
    while True:
        page = await list_tasks(queue, Filters(**filters), limit=limit, after=after)
        assert len(page.rows) <= limit
        found += [row.task_id for row in page.rows]
        if page.next is None:
            return found
        after = page.next


async def end(queue: Queue, count: int) -> None:
    """Record the ends of ``count`` tasks of two names; every tenth has failed."""
    ended = [
        make_ended(f"e{n}", "even" if n % 2 == 0 else "odd", failed=n % 10 == 0, finished=now_ms())
        for n in range(count)
    ]
    await record(queue.worker, queue.keys, ended)


async def test_an_empty_queue_has_an_empty_list(queue: Queue):
    """A queue that no worker has ever used has no rows, no counts and no workers."""
    assert (await list_tasks(queue, Filters())).rows == []
    assert (await queue.counts()).is_empty
    assert await queue.workers() == []


async def test_every_task_stands_in_exactly_one_page(queue: Queue):
    """Queued tasks come first in a list, then scheduled ones, then the newest that ended.

    The pages contain each task once, whatever their size.
    """
    await end(queue, 45)
    queued = [(await queue.worker.registry["double"].enqueue(n)).id for n in range(10)]
    later = await queue.worker.registry["fails"].enqueue().start(delay=60)

    expected = [*queued, later.id, *(f"e{n}" for n in reversed(range(45)))]
    assert await ids(queue) == expected
    assert await ids(queue, limit=100) == expected


async def test_filters_keep_only_matching_tasks(queue: Queue):
    """A list is filtered by state, by name, by both, and by time."""
    await end(queue, 45)
    queued = await queue.worker.registry["double"].enqueue(1)
    await queue.worker.registry["fails"].enqueue()
    soon = datetime.now(UTC) + timedelta(minutes=1)

    assert await ids(queue, states=FAILED) == ["e40", "e30", "e20", "e10", "e0"]
    assert len(await ids(queue, name="odd")) == 22
    assert await ids(queue, name="odd", states=FAILED) == []
    assert len(await ids(queue, name="even", states=frozenset({State.DONE}))) == 18
    assert await ids(queue, name="double") == [queued.id]
    assert await ids(queue, since=soon) == []
    assert len(await ids(queue, until=soon)) == 47
    assert len(await ids(queue, since=soon - timedelta(minutes=5), states=FAILED)) == 5


async def test_a_running_task_is_listed_first_and_not_as_queued(queue_of: Queue, running):
    """A running task has the first row and its worker's id, and counts as running only."""
    async with running(queue_of.worker):
        task = await queue_of.worker.registry["waits"].enqueue()
        (row,) = await eventually(queue_of.running)
        assert (row.task_id, row.state, row.worker) == (
            task.id, State.RUNNING, queue_of.worker.id,
        )  # fmt: skip
        assert await ids(queue_of) == [task.id]
        counts = await queue_of.counts()
        assert (counts.running, counts.queued) == (1, 0)
        later = await queue_of.worker.registry["fails"].enqueue().start(delay=60)
        assert await ids(queue_of, limit=1) == [task.id, later.id]
        await task.abort()


@pytest.mark.parametrize("after", ["", "nowhere!1", "ended!x", "ended", "ended!5-5"])
async def test_a_page_can_only_begin_where_another_ended(queue: Queue, after: str):
    """A page's position that was edited raises CommandError."""
    with pytest.raises(CommandError, match="takes the `next` of an earlier page"):
        await list_tasks(queue, Filters(), after=after)
