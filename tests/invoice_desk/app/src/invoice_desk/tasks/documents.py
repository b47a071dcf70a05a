"""Documents: a task for each item, and one for the end."""

import asyncio
import shutil
from pathlib import Path

from sqlmodel.ext.asyncio.session import AsyncSession
from vibetuner.frontend.templates import render_fragment
from vibetuner.resources.sql import open_session
from vibetuner.tasks.robust import robust_task

from invoice_desk.models import Invoice, batch_folder, document_path, new_id
from invoice_desk.tasks.mails import mail_document


async def start_documents(session: AsyncSession, items: list[str]) -> str:
    """Enqueue a task for each item once the session commits; return the id of the last task.

    The progress of the last task, which waits for the others, is that of the batch.
    """
    batch_id = new_id()
    parts = [documents_item.enqueue(batch_id, item) for item in items]
    end = documents_end.enqueue(batch_id).start(after=parts, regardless=True)
    end.id = batch_id
    return (await end.within(session)).id


@robust_task(max_retries=3)
async def documents_item(batch_id: str, number: str) -> None:
    """Write one document into the folder of its batch."""
    async with open_session() as session:
        invoice = await session.get_one(Invoice, number)
    html = render_fragment("document.html", invoice=invoice)
    await asyncio.to_thread(write, document_path(batch_id, number), html)


@robust_task(max_retries=3)
async def documents_end(batch_id: str) -> int:
    """Pack the finished documents, and enqueue one mail for each of them."""
    folder = batch_folder(batch_id)
    await asyncio.to_thread(shutil.make_archive, str(folder), "zip", folder)
    numbers = [path.stem for path in folder.glob("*.html") if path.is_file()]
    for number in numbers:
        await mail_document.enqueue(batch_id, number).once(f"{batch_id}:{number}")
    return len(numbers)


def write(path: Path, text: str) -> None:
    """Write a file atomically: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
