"""A batch of documents: a task for each, and one at the end."""

import asyncio
import shutil
from pathlib import Path

from sqlmodel import col, select, update
from vibetuner.frontend.templates import render_fragment
from vibetuner.resources.sql import open_session
from vibetuner.sse import broadcast
from vibetuner.tasks.robust import robust_task

from invoice_desk.models import Batch, Document, Invoice, batch_folder, now
from invoice_desk.tasks.mails import mail_document


async def mark_as_failed(_name: str, task_id: str, _error: Exception) -> None:
    """Count a document that could not be made."""
    await settle(task_id, "failed")


@robust_task(max_retries=5, on_failure=mark_as_failed)
async def make_document(document_id: str) -> None:
    """Write one document into the folder of its batch."""
    async with open_session() as session:
        document = await session.get_one(Document, document_id)
        invoice = await session.get_one(Invoice, document.number)
    html = render_fragment("document.html", invoice=invoice)
    await asyncio.to_thread(write, document.path, html)
    await settle(document_id, "made")


async def settle(document_id: str, status: str) -> None:
    """Count a document, once; whoever counts the last one enqueues the end of the batch."""
    ended = update(Document).where(
        col(Document.id) == document_id, col(Document.status) == "queued"
    )
    async with open_session() as session:
        changed = await session.exec(ended.values(status=status).returning(col(Document.batch_id)))
        batch_id = changed.scalar_one_or_none()
        if batch_id is None:
            return  # an attempt that was cut off has counted it
        counted = update(Batch).where(col(Batch.id) == batch_id).values(settled=Batch.settled + 1)
        settled = await session.exec(counted.returning(col(Batch.total) - col(Batch.settled)))
        if settled.scalar_one() == 0:
            await finish_batch.enqueue(batch_id).within(session)
        await session.commit()
    await broadcast(f"batch-{batch_id}", "changed")


@robust_task(max_retries=5)
async def finish_batch(batch_id: str) -> None:
    """Pack the documents, then mark the batch and mail its invoices in one transaction."""
    folder = batch_folder(batch_id)
    await asyncio.to_thread(shutil.make_archive, str(folder), "zip", folder)
    unfinished = update(Batch).where(col(Batch.id) == batch_id, col(Batch.finished_at).is_(None))
    made = select(Document.id).where(
        col(Document.batch_id) == batch_id, col(Document.status) == "made"
    )
    async with open_session() as session:
        if (await session.exec(unfinished.values(finished_at=now()))).rowcount:
            for document_id in await session.exec(made):
                await mail_document.enqueue(document_id).within(session)
            await session.commit()
    await broadcast(f"batch-{batch_id}", "changed")


def write(path: Path, text: str) -> None:
    """Write a file that is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
