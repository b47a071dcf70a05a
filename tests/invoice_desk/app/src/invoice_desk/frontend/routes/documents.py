"""Documents: a page that starts the batch and shows its progress."""

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse
from sqlmodel import col, select
from vibetuner.frontend.templates import render
from vibetuner.resources.sql import open_session
from vibetuner.tasks.progress import progress_endpoint

from invoice_desk.models import Invoice, batch_folder
from invoice_desk.tasks.documents import start_documents

router = APIRouter()


@router.get("/documents")
async def page(request: Request) -> HTMLResponse:
    """Show the page."""
    return render(request, "documents.html", {})


@router.post("/documents")
async def start(request: Request) -> HTMLResponse:
    """Enqueue the batch; answer with its progress bar."""
    unpaid = select(Invoice.number).where(col(Invoice.paid_at).is_(None))
    async with open_session() as session:
        items = list(await session.exec(unpaid))
        if not items:
            raise HTTPException(409, "There is no open invoice.")
        task_id = await start_documents(session, items)
        await session.commit()
    return render(request, "documents_run.html", {"task_id": task_id}, 201)


@progress_endpoint("/events/documents/{task_id}", router=router)
async def events(task_id: str) -> str:
    """Return the task to follow; raise HTTPException here for people who may not see it."""
    return task_id


@router.get("/documents/{task_id}/archive")
async def archive(task_id: str) -> FileResponse:
    """Return an archive of all documents of a finished batch."""
    path = batch_folder(task_id).with_suffix(".zip")
    if not path.is_file():
        raise HTTPException(404, "This batch is not finished yet.")
    return FileResponse(path, filename="invoices.zip")
