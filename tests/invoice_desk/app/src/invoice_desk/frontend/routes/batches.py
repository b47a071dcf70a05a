"""Make a document of each open invoice, and watch the batch."""

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from sqlmodel import col, select
from vibetuner.frontend.templates import render
from vibetuner.resources.sql import open_session
from vibetuner.tasks.progress import progress_endpoint

from invoice_desk.models import Invoice, batch_folder, new_id
from invoice_desk.tasks.documents import finish_batch, make_document

router = APIRouter()


@router.post("/batches")
async def start() -> RedirectResponse:
    """Enqueue a task for each document and one for when all have ended, all or none."""
    batch_id = new_id()
    async with open_session() as session:
        unpaid = select(Invoice.number).where(col(Invoice.paid_at).is_(None))
        numbers = (await session.exec(unpaid)).all()
        if not numbers:
            raise HTTPException(409, "There is no open invoice.")
        documents = [make_document.enqueue(batch_id, number) for number in numbers]
        end = finish_batch.enqueue(batch_id)
        end.start(after=[document.id for document in documents], regardless=True)
        end.id = batch_id  # so that its progress is the batch's
        for document in documents:
            await document.within(session)
        await end.within(session)
        await session.commit()
    return RedirectResponse(f"/batches/{batch_id}", 303)


@router.get("/batches/{batch_id}")
async def show(request: Request, batch_id: str) -> HTMLResponse:
    """Show a batch, and how far it is."""
    return render(request, "batch.html", {"batch_id": batch_id})


@progress_endpoint("/batches/{batch_id}/events", router=router)
async def events(batch_id: str) -> str:
    """Return the task that ends the batch."""
    return batch_id


@router.get("/batches/{batch_id}/archive")
async def archive(batch_id: str) -> FileResponse:
    """All documents of a batch that is finished."""
    path = batch_folder(batch_id).with_suffix(".zip")
    if not path.is_file():
        raise HTTPException(404, "This batch is not finished yet.")
    return FileResponse(path, filename="invoices.zip")
