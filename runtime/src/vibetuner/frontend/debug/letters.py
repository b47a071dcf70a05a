"""The dead letters' pages: by bug; retry and discard one, a group, or all."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response

from vibetuner.frontend.debug.actions import to_task
from vibetuner.frontend.debug.jobs import find_job, start_job
from vibetuner.frontend.debug.render import DebugRoute, back_to, page
from vibetuner.tasks.dead_letters import count, discard, get, groups, list_letters, retry
from vibetuner.tasks.dead_letters.bulk import Verb
from vibetuner.tasks.inspect.shown import name_arguments

__all__ = ["router"]

router = APIRouter(prefix="/dead", route_class=DebugRoute)

BY = "the dashboard"
PAGE = 50


@router.get("")
async def dead(request: Request, fingerprint: str = "", after: str = "") -> HTMLResponse:
    """The groups, and the newest letters of all or of one."""
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


@router.get("/confirm")
async def confirm(request: Request, verb: Verb, fingerprint: str = "") -> HTMLResponse:
    """Ask before many are touched, and say how many."""
    total = await count(fingerprint=fingerprint or None)
    return page(request, "confirm.html", verb=verb, fingerprint=fingerprint, total=total)


@router.post("/act")
async def act(verb: Annotated[Verb, Form()], fingerprint: Annotated[str, Form()] = "") -> Response:
    """Begin to retry or discard a group, or all."""
    total = await count(fingerprint=fingerprint or None)
    job_id = await start_job(verb, fingerprint or None, total, by=BY)
    return back_to(f"/dead/job/{job_id}")


@router.get("/job/{job_id}")
async def job(request: Request, job_id: str) -> HTMLResponse:
    """How far it has come."""
    return page(request, "job.html", job=await find_job(job_id))


@router.post("/{task_id}/retry")
async def retry_one(task_id: str) -> Response:
    """Enqueue one letter's task again."""
    return to_task(await retry(await get(task_id), by=BY), "retried")


@router.post("/{task_id}/discard")
async def discard_one(task_id: str) -> Response:
    """Decide against a retry."""
    await discard(await get(task_id), by=BY)
    return back_to("/dead", "discarded")
