"""What the dashboard changes: a task is aborted, enqueued again, or run ahead of its schedule."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form
from fastapi.responses import Response

from vibetuner.frontend.debug.render import DebugRoute, back_to
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.inspect.steer import abort, enqueue, enqueue_again

__all__ = ["router", "to_task"]

router = APIRouter(route_class=DebugRoute)


@router.post("/task/{task_id}/abort")
async def end_task(task_id: str) -> Response:
    """End a task, wherever it is."""
    is_ended = await abort(this_queue(), task_id)
    return to_task(task_id, "aborted" if is_ended else "marked")


@router.post("/task/{task_id}/again")
async def repeat_task(task_id: str) -> Response:
    """Enqueue a task anew, with the arguments that it had."""
    return to_task(await enqueue_again(this_queue(), task_id), "enqueued")


@router.post("/cron/run")
async def run_now(name: Annotated[str, Form()]) -> Response:
    """Enqueue a task that otherwise waits for its schedule."""
    return to_task(await enqueue(this_queue(), name), "enqueued")


def to_task(task_id: str, said: str = "") -> Response:
    """Go on to the page of a task."""
    return back_to(f"/task/{quote(task_id, safe='')}", said)
