"""The dashboard at ``/debug/tasks``: its actions, and the pages of dead letters."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response

from vibetuner.frontend.debug import pages
from vibetuner.frontend.debug.jobs import find_job, start_job
from vibetuner.frontend.debug.render import DebugRoute, back_to, page
from vibetuner.tasks.dead_letters import count, discard, get, groups, list_letters, retry
from vibetuner.tasks.dead_letters.bulk import Verb
from vibetuner.tasks.inspect.actions import abort, enqueue, enqueue_again
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.inspect.shown import name_arguments

router = APIRouter(route_class=DebugRoute)
letters = APIRouter(prefix="/dead", route_class=DebugRoute)

BY = "the dashboard"
PAGE = 50


def make_dashboard() -> APIRouter:
    """Return every page and action below ``/debug/tasks``, to put behind the gate."""
    dashboard = APIRouter(include_in_schema=False)
    for part in (pages.router, letters, router):
        dashboard.include_router(part, prefix="/debug/tasks")
    return dashboard


@router.post("/task/{task_id}/abort")
async def end_task(task_id: str) -> Response:
    """Abort a task, whatever its state."""
    is_ended = await abort(this_queue(), task_id)
    return _to_task(task_id, "aborted" if is_ended else "marked")


@router.post("/task/{task_id}/again")
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
async def act(verb: Annotated[Verb, Form()], fingerprint: Annotated[str, Form()] = "") -> Response:
    """Start to retry or discard a group, or all."""
    total = await count(fingerprint=fingerprint or None)
    job_id = await start_job(verb, fingerprint or None, total, by=BY)
    return back_to(f"/dead/job/{job_id}")


@letters.get("/job/{job_id}")
async def job(request: Request, job_id: str) -> HTMLResponse:
    """Show the progress of a job."""
    return page(request, "job.html", job=await find_job(job_id))


@letters.post("/{task_id}/retry")
async def retry_one(task_id: str) -> Response:
    """Retry one letter."""
    return _to_task(await retry(await get(task_id), by=BY), "retried")


@letters.post("/{task_id}/discard")
async def discard_one(task_id: str) -> Response:
    """Discard one letter."""
    await discard(await get(task_id), by=BY)
    return back_to("/dead", "discarded")


def _to_task(task_id: str, said: str = "") -> Response:
    """Redirect to the page of a task."""
    return back_to(f"/task/{quote(task_id, safe='')}", said)
