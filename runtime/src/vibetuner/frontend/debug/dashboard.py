"""The dashboard at ``/debug/tasks``: its actions, and the pages of dead letters.

Many letters are retried or discarded in the background, while a page shows the progress.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cache
from secrets import token_hex
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response

from vibetuner.errors import TaskNotFound, VibetunerError, first_line
from vibetuner.frontend.debug import pages
from vibetuner.frontend.debug.render import DebugRoute, back_to, page
from vibetuner.stored import Count, Millis, dump_record, read_or_none
from vibetuner.tasks.dead_letters import (
    Verb,
    count,
    discard,
    get,
    groups,
    list_letters,
    matching,
    retry,
    settle,
)
from vibetuner.tasks.inspect.actions import abort, enqueue, enqueue_again
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.inspect.shown import name_arguments
from vibetuner.tasks.letters.letter import Filters
from vibetuner.timing import now_ms

router = APIRouter(route_class=DebugRoute)
letters = APIRouter(prefix="/dead", route_class=DebugRoute)

BY = "the dashboard"
PAGE = 50

logger = logging.getLogger(__name__)

KEPT_SECONDS = 3600
WRITE_MS = 300
STALE_MS = 15_000
MOST_REASONS = 10


@cache
def make_dashboard() -> APIRouter:
    """Return every page and action below ``/debug/tasks``, to put behind the gate."""
    dashboard = APIRouter(include_in_schema=False)
    for part in (pages.router, letters, router):
        dashboard.include_router(part, prefix="/debug/tasks")
    return dashboard


@router.post("/task/{task_id:path}/abort")
async def end_task(task_id: str) -> Response:
    """Abort a task, whatever its state."""
    is_ended = await abort(this_queue(), task_id)
    return _to_task(task_id, "aborted" if is_ended else "marked")


@router.post("/task/{task_id:path}/again")
async def repeat_task(task_id: str) -> Response:
    """Enqueue a task again with the same arguments."""
    return _to_task(await enqueue_again(this_queue(), task_id), "enqueued")


@router.post("/cron/run")
async def run_now(name: Annotated[str, Form()]) -> Response:
    """Enqueue a cron task ahead of its schedule."""
    return _to_task(await enqueue(this_queue(), name), "enqueued")


@letters.get("")
async def dead(request: Request, fingerprint: str = "", after: str = "") -> HTMLResponse:
    """Show the groups, and the newest letters of all groups or of one."""
    found = await list_letters(fingerprint=fingerprint or None, limit=PAGE, after=after or None)
    by_bug = await groups()
    return page(
        request,
        "dead.html",
        groups=by_bug,
        grouped=sum(group.count for group in by_bug) + len(found.unreadable),
        letters=[
            (letter, name_arguments(None, letter.args, letter.kwargs)) for letter in found.letters
        ],
        unreadable=found.unreadable,
        fingerprint=fingerprint,
        following=found.next and f"fingerprint={quote(fingerprint)}&after={quote(found.next)}",
        total=await count(),
    )


@letters.get("/confirm")
async def confirm(
    request: Request, verb: Verb, fingerprint: str = "", task_id: str = ""
) -> HTMLResponse:
    """Ask for a confirmation that names the number of letters."""
    total = 1 if task_id else await count(fingerprint=fingerprint or None)
    return page(
        request, "confirm.html", verb=verb, fingerprint=fingerprint, task_id=task_id, total=total
    )


@letters.post("/act")
async def act(
    verb: Annotated[Verb, Form()],
    total: Annotated[int, Form(ge=0)],
    fingerprint: Annotated[str, Form()] = "",
) -> Response:
    """Start to retry or discard as many letters of a group, or of all, as the button named."""
    total = min(total, await count(fingerprint=fingerprint or None))
    job_id = await start_job(verb, fingerprint or None, total, by=BY)
    return back_to(f"/dead/job/{job_id}")


@letters.get("/job/{job_id}")
async def job(request: Request, job_id: str) -> HTMLResponse:
    """Show the progress of a job."""
    return page(request, "job.html", job=await find_job(job_id))


@letters.post("/{task_id:path}/retry")
async def retry_one(task_id: str) -> Response:
    """Retry one letter."""
    return _to_task(await retry(await get(task_id), by=BY), "retried")


@letters.post("/{task_id:path}/discard")
async def discard_one(task_id: str) -> Response:
    """Discard one letter."""
    await discard(await get(task_id), by=BY)
    return back_to("/dead", "discarded")


@dataclass(slots=True)
class Job:
    """A bulk retry or discard, and its progress."""

    id: str
    verb: Verb
    fingerprint: str | None
    total: Count
    done: Count = 0
    refused: Count = 0
    reasons: list[str] = field(default_factory=list)
    error: str = ""
    is_over: bool = False
    at: Millis = 0

    @property
    def is_stale(self) -> bool:
        """Return whether the process that runs it seems to be gone."""
        return not self.is_over and now_ms() - self.at > STALE_MS


async def start_job(verb: Verb, fingerprint: str | None, total: int, *, by: str) -> str:
    """Start a job and return its id; an interrupted job can simply be started again."""
    job = Job(token_hex(8), verb, fingerprint, total)
    await _write(job)
    task = asyncio.create_task(_run(job, by))
    _running().add(task)
    task.add_done_callback(_running().discard)
    return job.id


async def find_job(job_id: str) -> Job:
    """Return a job of the last hour, whichever process runs it.

    Raises TaskNotFound if there is none.
    """
    job = read_or_none(Job, await this_queue().redis.get(this_queue().keys.job(job_id)))
    if job is None:
        raise TaskNotFound(
            f"There is no such job {job_id}, or it ended over an hour ago. Start it again"
        )
    return job


def _to_task(task_id: str, said: str = "") -> Response:
    """Redirect to the page of a task."""
    return back_to(f"/task/{quote(task_id, safe='')}", said)


async def _run(job: Job, by: str) -> None:
    try:
        # Letters of tasks that have failed since the count stay open.
        filters = Filters(fingerprint=job.fingerprint)
        letters = matching(filters, limit=job.total, known=job.total)
        async for one in settle(job.verb, letters, by=by):
            if one.refusal:
                job.refused += 1
                job.reasons = [*job.reasons, one.refusal][:MOST_REASONS]
            else:
                job.done += 1
            if now_ms() - job.at > WRITE_MS:
                await _write(job)
    except VibetunerError as error:
        job.error = str(error)
    except Exception as error:
        logger.exception("could not %s dead letters", job.verb)
        job.error = first_line(error)
    job.is_over = True
    await _write(job)


async def _write(job: Job) -> None:
    job.at = now_ms()
    await this_queue().redis.set(this_queue().keys.job(job.id), dump_record(job), ex=KEPT_SECONDS)


@cache
def _running() -> set[asyncio.Task[None]]:
    """Return the running jobs; without a reference, the event loop may drop a task."""
    return set()
