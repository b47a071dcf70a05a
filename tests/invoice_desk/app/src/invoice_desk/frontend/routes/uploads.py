"""Upload a file of invoices, and watch it being imported."""

import asyncio
import shutil
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse
from vibetuner.frontend.templates import render
from vibetuner.resources.sql import open_session
from vibetuner.tasks.progress import progress_endpoint

from invoice_desk.models import Upload
from invoice_desk.tasks.imports import import_invoices

router = APIRouter()


@router.post("/uploads", max_body_size=20_000_000)
async def start(file: UploadFile) -> RedirectResponse:
    """Store the file, and enqueue its import together with the row that names it."""
    upload = Upload()
    await asyncio.to_thread(keep, file.file, upload.path)
    async with open_session() as session:
        task = await import_invoices.enqueue(upload.id).within(session)
        upload.task_id = task.id
        session.add(upload)
        await session.commit()
    return RedirectResponse(f"/uploads/{upload.id}", 303)


@router.get("/uploads/{upload_id}")
async def show(request: Request, upload_id: str) -> HTMLResponse:
    """Show the progress of an import."""
    return render(request, "upload.html", {"upload": await find(upload_id)})


@progress_endpoint("/uploads/{upload_id}/events", router=router)
async def events(upload_id: str) -> str:
    """Return the id of the task that imports a file."""
    return (await find(upload_id)).task_id


async def find(upload_id: str) -> Upload:
    """Return an upload, or answer with 404."""
    async with open_session() as session:
        upload = await session.get(Upload, upload_id)
    if upload is None:
        raise HTTPException(404, "There is no such upload.")
    return upload


def keep(file: BinaryIO, path: Path) -> None:
    """Copy an uploaded file to a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as copy:
        shutil.copyfileobj(file, copy)
