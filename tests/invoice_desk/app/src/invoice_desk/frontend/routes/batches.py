"""Make a document of each open invoice, and watch the batch."""

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from sqlmodel import col, select
from vibetuner.frontend.templates import render
from vibetuner.resources.sql import open_session
from vibetuner.sse import sse_endpoint
from vibetuner.tasks.progress import ProgressState, ProgressStatus

from invoice_desk.models import Batch, Document, Invoice, batch_folder
from invoice_desk.tasks.documents import make_document

router = APIRouter()


@router.post("/batches")
async def start() -> RedirectResponse:
    """Store a batch and enqueue a task for each of its documents, all or none."""
    async with open_session() as session:
        unpaid = select(Invoice.number).where(col(Invoice.paid_at).is_(None))
        numbers = (await session.exec(unpaid)).all()
        if not numbers:
            raise HTTPException(409, "There is no open invoice.")
        batch = Batch(total=len(numbers))
        session.add(batch)
        await session.flush()  # before the documents, which refer to it
        documents = [Document(batch_id=batch.id, number=number) for number in numbers]
        session.add_all(documents)
        for document in documents:
            call = make_document.enqueue(document.id)
            call.id = document.id  # so that on_failure knows which one
            await call.within(session)
        await session.commit()
    return RedirectResponse(f"/batches/{batch.id}", 303)


@router.get("/batches/{batch_id}")
async def show(request: Request, batch_id: str) -> HTMLResponse:
    """Show a batch, and what listens to it."""
    return render(request, "batch.html", await state_of(batch_id))


@router.get("/batches/{batch_id}/state")
async def show_state(request: Request, batch_id: str) -> HTMLResponse:
    """Show only what changes."""
    return render(request, "batch_state.html", await state_of(batch_id))


@sse_endpoint("/batches/{batch_id}/events", router=router)
async def events(batch_id: str) -> str:
    """Return the channel that says when to ask again."""
    return f"batch-{(await find(batch_id)).id}"


@router.get("/batches/{batch_id}/archive")
async def archive(batch_id: str) -> FileResponse:
    """All documents of a batch that is finished."""
    batch = await find(batch_id)
    if batch.finished_at is None:
        raise HTTPException(404, "This batch is not finished yet.")
    return FileResponse(batch_folder(batch_id).with_suffix(".zip"), filename="invoices.zip")


async def state_of(batch_id: str) -> dict[str, object]:
    """Return what a page shows of a batch."""
    batch = await find(batch_id)
    status = ProgressStatus.RUNNING if batch.finished_at is None else ProgressStatus.COMPLETE
    state = ProgressState(task_id=batch_id, status=status, done=batch.settled, total=batch.total)
    return {"batch": batch, "state": state}


async def find(batch_id: str) -> Batch:
    """Return a batch."""
    async with open_session() as session:
        batch = await session.get(Batch, batch_id)
    if batch is None:
        raise HTTPException(404, "There is no such batch.")
    return batch
