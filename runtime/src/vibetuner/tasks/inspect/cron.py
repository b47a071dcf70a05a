"""The schedules of cron tasks: their last and next runs, and whether they are late."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from crontab import CronTab

from vibetuner.tasks.inspect.listing import stored_row
from vibetuner.tasks.inspect.model import Row, moment
from vibetuner.tasks.inspect.queue import Queue

# A run may be this late before its schedule counts as late.
GRACE = timedelta(seconds=60)


class CronHealth(StrEnum):
    """The health of a schedule."""

    ON_TIME = "on time"
    RUNNING = "running"
    LATE = "late"
    MISSED = "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CronView:
    """A schedule of a cron task or of a repeated call.

    Args:
        name: the task's name, or the id of a schedule that was enqueued.
        tab: the crontab line, in UTC.
        note: the problem in one line; empty if there is none.
        is_known: whether this project has the task, so that it can be run now.
    """

    name: str
    tab: str
    next: datetime | None
    last: Row | None
    health: CronHealth
    note: str
    is_known: bool


async def list_crons(queue: Queue) -> list[CronView]:
    """Return every schedule that a worker has registered, by name."""
    worker, keys = queue.worker, queue.keys
    tabs = await queue.redis.hgetall(worker.cron_registry_key)
    names = sorted(map(str, tabs))
    async with queue.redis.pipeline(transaction=False) as pipe:
        scores = [pipe.zscore(worker.cron_schedule_key, name) for name in names]
        seen = [pipe.hget(keys.cron, name) for name in names]
        ends = [pipe.xrevrange(keys.of(name), count=1) for name in names]
        # Only schedules that were enqueued have a queue there.
        enqueued = [pipe.hexists(queue.engine_keys.cron_queues, name) for name in names]
    running = {row.name for row in await queue.running()}
    views = []
    for name, score, first, end, own in zip(names, scores, seen, ends, enqueued, strict=True):
        last = await _last(queue, await end)
        due = moment(await score)
        began = moment(await first)
        health, note = judge(
            str(tabs[name]), due, last, began, is_running=name in running, now=datetime.now(UTC)
        )
        is_known = name in worker.registry
        if not (is_known or await own):
            note = f"this project has no such task. Remove it:  vibetuner tasks abort {name}"
        views.append(
            CronView(
                name=name,
                tab=str(tabs[name]),
                next=due,
                last=last,
                health=health,
                note=note,
                is_known=is_known,
            )
        )
    return views


def judge(  # noqa: PLR0913 - each with its name
    tab: str,
    due: datetime | None,
    last: Row | None,
    first_seen: datetime | None,
    *,
    is_running: bool,
    now: datetime,
) -> tuple[CronHealth, str]:
    """Return the health of a schedule, and the problem if there is one."""
    if is_running:
        return CronHealth.RUNNING, ""
    if due is not None and now - due > GRACE:
        return CronHealth.LATE, f"due at {due:%H:%M} UTC, and no worker has put it into the queue"
    expected = _previous(tab, now)
    if expected is None or first_seen is None or expected < first_seen or now - expected < GRACE:
        return CronHealth.ON_TIME, ""
    if last is None or (last.due or last.finished or now) < expected:
        return CronHealth.MISSED, f"the run of {expected:%Y-%m-%d %H:%M} UTC did not happen"
    return CronHealth.ON_TIME, ""


async def _last(queue: Queue, entries: tuple[object, ...]) -> Row | None:
    if not entries:
        return None
    entry_id = str(getattr(entries[0], "identifier", ""))
    fields = await queue.entry(queue.keys.ended, entry_id)
    return stored_row(entry_id, fields) if fields else None


def _previous(tab: str, now: datetime) -> datetime | None:
    try:
        seconds = CronTab(tab).previous(now=now, default_utc=True)
    except (ValueError, TypeError, ArithmeticError, LookupError):  # not a valid crontab
        return None
    return None if seconds is None else now + timedelta(seconds=seconds)
