"""The project's declarations."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, HTTPException, UploadFile
from pydantic import BaseModel
from streaq import StreaqError

from vibetuner import VibetunerApp
from vibetuner.sse import sse_endpoint
from vibetuner.tasks.progress import Progress, progress_endpoint
from vibetuner.tasks.robust import robust_cron, robust_task
from vibetuner.tasks.worker import get_worker

__all__ = ["app"]

router = APIRouter()


class Order(BaseModel):
    """The body of an order."""

    name: str = "echo"
    values: list[int | float | str | None] = []


@robust_task(max_retries=2, backoff_base=0.2)
async def echo(*values: object) -> list[object]:
    """Return its arguments, with progress."""
    progress = Progress(total=2)
    await progress.advance()
    return list(values)


@robust_task(max_retries=1, backoff_base=0.2)
async def fail(*values: object) -> None:
    """Fail at every attempt."""
    raise ValueError(f"planned: {values!r}")


@robust_task(unique=True, timeout=5, max_retries=2, backoff_base=0.2)
async def alone(*values: object) -> int:
    """Run one at a time."""
    await asyncio.sleep(0.2)
    return len(values)


@robust_cron("* * * * *")
async def tick() -> None:
    """Run every minute."""


@router.post("/orders", status_code=202)
async def order(wanted: Order) -> dict[str, str]:
    """Enqueue a task."""
    if wanted.name == "alone":
        return {"id": (await alone.enqueue(*wanted.values)).id}
    task = await (fail if wanted.name == "fail" else echo).enqueue(*wanted.values)
    return {"id": task.id}


@router.get("/orders/{task_id}")
async def outcome(task_id: str) -> dict[str, str]:
    """Wait for a task, and return its result; one that somebody has damaged is none."""
    try:
        result = await get_worker().result_by_id(task_id, timeout=3)
    except StreaqError as error:
        raise HTTPException(404) from error
    return {"result": str(result.result if result.success else "failed")}


@router.post("/upload")
async def upload(file: UploadFile) -> int:
    """Return the size of an uploaded file."""
    return len(await file.read())


@sse_endpoint("/events/{channel}", router=router)
async def events(channel: str) -> str:
    """Return the channel of a stream."""
    return channel


@progress_endpoint("/progress/{task_id}", router=router)
async def progress(task_id: str) -> str:
    """Return the task whose progress to show."""
    return task_id


app = VibetunerApp(tasks=[echo, fail, alone, tick], routes=[router])
