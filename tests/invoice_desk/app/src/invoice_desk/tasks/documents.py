"""A batch of documents: a task for each, and one at the end."""

import asyncio
import shutil
from pathlib import Path

from vibetuner.frontend.templates import render_fragment
from vibetuner.resources.sql import open_session
from vibetuner.tasks.robust import robust_task

from invoice_desk.models import Invoice, batch_folder, document_path
from invoice_desk.tasks.mails import mail_document


@robust_task(max_retries=5)
async def make_document(batch_id: str, number: str) -> None:
    """Write one document into the folder of its batch."""
    async with open_session() as session:
        invoice = await session.get_one(Invoice, number)
    html = render_fragment("document.html", invoice=invoice)
    await asyncio.to_thread(write, document_path(batch_id, number), html)


@robust_task(max_retries=5)
async def finish_batch(batch_id: str) -> int:
    """Pack the documents that were made, and mail each of them once."""
    folder = batch_folder(batch_id)
    await asyncio.to_thread(shutil.make_archive, str(folder), "zip", folder)
    numbers = [path.stem for path in folder.glob("*.html") if path.is_file()]
    for number in numbers:
        await mail_document.enqueue(batch_id, number).once(f"{batch_id}:{number}")
    return len(numbers)


def write(path: Path, text: str) -> None:
    """Write a file that is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
