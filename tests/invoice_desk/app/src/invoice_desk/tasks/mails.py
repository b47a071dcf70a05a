"""Mail to customers."""

from datetime import timedelta

from vibetuner.frontend.templates import render_fragment
from vibetuner.resources.sql import open_session
from vibetuner.services.email import send_email
from vibetuner.tasks.robust import robust_task

from invoice_desk.models import Invoice, document_path

MINUTE = timedelta(minutes=1)


@robust_task(max_retries=8, timeout=MINUTE)
async def mail_document(batch_id: str, number: str) -> None:
    """Send an invoice to its customer as an attached document."""
    async with open_session() as session:
        invoice = await session.get_one(Invoice, number)
    await send_email(
        to_email=invoice.email,
        subject=f"Your invoice {invoice.number}",
        html_content=render_fragment("mail/document.html", invoice=invoice),
        attachments=[document_path(batch_id, number)],
    )


@robust_task(max_retries=8, timeout=MINUTE)
async def mail_reminder(number: str) -> None:
    """Send a reminder of an invoice, unless it has been paid in the meantime."""
    async with open_session() as session:
        invoice = await session.get_one(Invoice, number)
    if invoice.paid_at is None:
        await send_email(
            to_email=invoice.email,
            subject=f"Reminder: invoice {number} is overdue",
            html_content=render_fragment("mail/reminder.html", invoice=invoice),
        )
