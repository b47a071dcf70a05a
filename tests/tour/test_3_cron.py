"""Cron tasks: the worker runs them at the times of a crontab line."""

from __future__ import annotations

from datetime import UTC, datetime

from vibetuner.context import Context
from vibetuner.tasks import WorkerDepends
from vibetuner.tasks.worker import TaskWorker, get_worker

tasks = get_worker()


@tasks.cron("0 9 * * *")
async def morning_digest(context: Context = WorkerDepends()) -> str:
    return f"digest of {context.project_slug}"


@tasks.cron("*/15 * * * *")
def check_expired_sessions() -> int:
    return 0


async def test_a_cron_task_is_scheduled_for_its_next_time(worker: TaskWorker):
    """The worker schedules a cron task for its next time, which is in UTC."""
    due = worker.next_run("0 9 * * *")

    scheduled = await worker.redis.zscore(worker.cron_schedule_key, "morning_digest")

    assert scheduled == due
    assert datetime.fromtimestamp(due / 1000, UTC).strftime("%H:%M") == "09:00"


async def test_a_cron_task_can_be_enqueued_like_any_other(worker: TaskWorker):
    """A cron task can be enqueued by hand, such as after a missed run, and has its context."""
    task = await morning_digest.enqueue()

    assert (await task.result(timeout=30)).result == "digest of tour"


async def test_a_sync_function_can_be_a_cron_task(worker: TaskWorker):
    """A sync function can be a cron task: it has its crontab line, and can be enqueued."""
    assert check_expired_sessions.crontab == "*/15 * * * *"
    assert (await (await check_expired_sessions.enqueue()).result(timeout=30)).result == 0
