"""Cron tasks in a project's tests run only when the test advances the queue's clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.testing import ManualWorker

ran: list[str] = []


@pytest.fixture(autouse=True)
def shop(stand_in: Callable[..., Path]) -> TaskWorker:
    """Return a worker with a task that runs every minute and one that runs on request."""
    stand_in()
    ran.clear()
    worker = get_worker()

    @worker.cron("* * * * *", name="each_minute")
    async def tick() -> None:
        ran.append("tick")

    @worker.task(name="written_once")
    async def note(text: str) -> None:
        ran.append(text)

    return worker


async def test_run_until_idle_runs_no_cron(vibetuner_worker: ManualWorker, shop: TaskWorker):
    """run_until_idle() schedules and runs no cron task, however close the next minute is."""
    await shop.registry["written_once"].enqueue("hello")
    await vibetuner_worker.run_until_idle()

    assert ran == ["hello"]
    assert await shop.redis.zcard(shop.cron_schedule_key) == 0


async def test_two_weeks_without_cron_take_only_the_time_of_due_tasks(
    vibetuner_worker: ManualWorker, shop: TaskWorker, caplog: pytest.LogCaptureFixture
):
    """advance() with `cron=False` runs only due tasks, takes seconds, and logs how far it went."""
    caplog.set_level(logging.INFO, logger="vibetuner.testing")
    await shop.registry["written_once"].enqueue("later").start(delay=timedelta(days=12))
    began, real = vibetuner_worker.now, time.monotonic()

    await vibetuner_worker.advance(days=13, cron=False)

    assert ran == ["later"]
    assert vibetuner_worker.now - began >= timedelta(days=13)
    assert time.monotonic() - real < 20
    assert "by 13 days, 0:00:00; tasks fell due at 1 moment, cron left out" in caplog.text


async def test_too_many_cron_runs_are_refused_before_the_first(vibetuner_worker: ManualWorker):
    """advance() refuses more than `most` cron runs before it starts any.

    The error names the task and what to pass instead.
    """
    with pytest.raises(AssertionError, match=r"more than 1,000 times, most of all \w+\. Pass cron"):
        await vibetuner_worker.advance(days=13)
    with pytest.raises(AssertionError, match="more than 2 times"):
        await vibetuner_worker.advance(minutes=5, most=2)
    assert ran == []


async def test_a_task_that_enqueues_itself_for_ever_is_found(
    vibetuner_worker: ManualWorker, shop: TaskWorker
):
    """advance() fails when a task that enqueues itself has come due `most` times."""

    @shop.task(name="again")
    async def again() -> None:
        await shop.registry["again"].enqueue().start(delay=1)

    await again.enqueue()
    with pytest.raises(AssertionError, match="tasks fell due at 3 moments, and more are due"):
        await vibetuner_worker.advance(days=1, cron=False, most=3)


async def test_cron_runs_resume_after_an_advance_without_cron(vibetuner_worker: ManualWorker):
    """Cron runs that `cron=False` left out are not caught up with later."""
    # The test's own seconds count too, so it begins well before the next minute.
    await vibetuner_worker.skip(seconds=61 - vibetuner_worker.now.second, cron=False)
    await vibetuner_worker.advance(minutes=2)
    assert ran == ["tick"] * 2
    await vibetuner_worker.advance(hours=5, cron=False)
    await vibetuner_worker.skip(hours=5, cron=False)
    await vibetuner_worker.run_until_idle()
    assert ran == ["tick"] * 2

    await vibetuner_worker.advance(minutes=3)

    assert ran == ["tick"] * 5


async def test_an_advance_runs_cron_of_a_minute_that_begins_meanwhile(
    vibetuner_worker: ManualWorker,
):
    """advance() by a minute runs a minutely cron task, also if the minute begins meanwhile."""
    for milliseconds in (0.1, 0.3, 1, 2, 3):
        minute = vibetuner_worker.now.replace(second=0, microsecond=0) + timedelta(minutes=2)
        await vibetuner_worker.advance_to(minute - timedelta(seconds=1), cron=False)
        ran.clear()
        begins = minute - timedelta(milliseconds=milliseconds)
        while vibetuner_worker.now < begins:
            pass
        await vibetuner_worker.advance(minutes=1)
        assert ran == ["tick"]
