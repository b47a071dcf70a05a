"""Import of invoices from a CSV file."""

import asyncio
import csv
from pathlib import Path

from sqlmodel import col, update
from vibetuner.resources.sql import open_session
from vibetuner.tasks.progress import Progress
from vibetuner.tasks.robust import robust_task

from invoice_desk.models import Invoice, Upload


@robust_task(max_retries=5, give_up_on=ValueError)
async def import_invoices(upload_id: str) -> dict[str, int]:
    """Import a file row by row; a retry continues after the last row that is committed.

    If a row of the file is invalid, the task gives up before it imports one.
    """
    async with open_session() as session:
        upload = await session.get_one(Upload, upload_id)
    invoices = await asyncio.to_thread(read, upload.path)
    progress = Progress(len(invoices))
    await progress.update(done=upload.rows)
    async for invoice in progress.track(invoices[upload.rows :]):
        await add(invoice, upload_id, progress.done)
    return {"rows": len(invoices)}


async def add(invoice: Invoice, upload_id: str, row: int) -> None:
    """Add one invoice and count its row, unless another attempt has done so."""
    row_is_next = update(Upload).where(col(Upload.id) == upload_id, col(Upload.rows) == row)
    async with open_session() as session:
        if (await session.exec(row_is_next.values(rows=row + 1))).rowcount:
            if await session.get(Invoice, invoice.number) is None:
                session.add(invoice)
            await session.commit()


def read(path: Path) -> list[Invoice]:
    """Read the file, and validate every row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [Invoice.model_validate(row) for row in csv.DictReader(file)]
