"""Jobs that retry or discard many dead letters, with a page for their progress."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.runtime.tasks.letters.conftest import keep, make_letter, payload_of
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import TaskNotFound
from vibetuner.frontend.debug.dashboard import MOST_REASONS, Job, find_job, start_job
from vibetuner.tasks.dead_letters import Outcome, find, get, matching, open_dead_letters, settle
from vibetuner.tasks.letters.letter import Filters
from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.testing import held_open


@pytest.fixture
async def queue(stand_in, settings: Settings) -> AsyncIterator[TaskWorker]:
    """Open the dead letters without MongoDB; yield the worker."""
    stand_in()
    with using_settings(settings.model_copy(update={"mongodb_url": None})):
        async with held_open(open_dead_letters()):
            yield get_worker()


async def bury(queue: TaskWorker, settings: Settings, *ids: str, damaged: bool = False) -> None:
    for task_id in ids:
        payload = b"" if damaged else await payload_of(queue, 1, task_id=task_id)
        await keep(queue.redis, settings.redis_key_prefix, make_letter(task_id, payload=payload))


async def ended(job_id: str) -> Job:
    async def found() -> Job | None:
        job = await find_job(job_id)
        return job if job.is_over else None

    return await eventually(found)


async def test_a_job_counts_what_it_retried_and_what_was_refused(
    queue: TaskWorker, settings: Settings
):
    """A job counts the letters that it retried and those refused, with the first reasons.

    A second job has only the letters that are left.
    """
    await bury(queue, settings, "good-1", "good-2")
    await bury(queue, settings, *(f"bad-{n}" for n in range(MOST_REASONS + 1)), damaged=True)
    job = await ended(await start_job("retry", None, 100, by="ann"))
    assert (job.done, job.refused, job.error) == (2, MOST_REASONS + 1, "")
    assert len(job.reasons) == MOST_REASONS
    assert all("can't be retried: its arguments are gone" in one for one in job.reasons)
    assert (await get("good-1")).acted_by == "ann"
    again = await ended(await start_job("discard", None, 1, by="ann"))
    assert (again.done, again.refused) == (1, 0)
    assert not again.is_stale


async def test_a_job_that_redis_interrupts_has_the_error(
    queue: TaskWorker, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """A job that Redis interrupts has the error, and can be started again."""
    await bury(queue, settings, "good-1")
    prefix = settings.redis_key_prefix
    await queue.redis.rename(f"{prefix}dead_letters", f"{prefix}away")
    await queue.redis.set(f"{prefix}dead_letters", "not a stream")
    job = await ended(await start_job("retry", None, 1, by="ann"))
    assert "can't be used: Operation against a key holding the wrong kind" in job.error
    assert job.done == 0
    await queue.redis.rename(f"{prefix}away", f"{prefix}dead_letters")
    assert (await ended(await start_job("retry", None, 1, by="ann"))).done == 1


async def test_a_job_of_another_hour_is_not_found(queue: TaskWorker):
    """A job that doesn't exist any more is an error with the cure."""
    with pytest.raises(TaskNotFound, match=r"no such job nobody, .* Start it again"):
        await find_job("nobody")


@pytest.mark.parametrize("limit", [None, 0, 1, 2, 5])
async def test_no_more_letters_are_settled_than_were_counted(
    queue: TaskWorker, settings: Settings, limit: int | None
):
    """A job settles no more letters than its limit, each with its new id or a reason."""
    await bury(queue, settings, "one", "two")
    await bury(queue, settings, "three", damaged=True)
    outcome = Outcome()
    async for one in settle("retry", matching(Filters(), limit=limit), by=None):
        outcome.add(one)
    wanted = ["three", "two", "one"][:limit]
    assert [*outcome.refused, *outcome.done] == wanted
    assert all(outcome.done.values())
    left = (await find(Filters(), limit=9)).letters
    assert len(left) == 3 - len(outcome.done)


async def test_letters_that_were_added_after_the_count_are_left_out(
    queue: TaskWorker, settings: Settings
):
    """Of three letters, the two that somebody has seen are settled, and not the newest."""
    await bury(queue, settings, "one", "two", "three")
    found = [letter.task_id async for letter in matching(Filters(), limit=2, known=2)]
    assert found == ["two", "one"]
