"""Payments that the bank reports."""

from sqlmodel import col, update
from vibetuner.resources.sql import open_session
from vibetuner.tasks.robust import robust_task

from invoice_desk.models import Invoice, now


@robust_task()
async def book_payment(number: str) -> bool:
    """Mark an invoice as paid; return False if it is paid already or does not exist."""
    unpaid = update(Invoice).where(col(Invoice.number) == number, col(Invoice.paid_at).is_(None))
    async with open_session() as session:
        paid = await session.exec(unpaid.values(paid_at=now()))
        await session.commit()
    return paid.rowcount == 1
