"""Reminders of overdue invoices."""

from datetime import timedelta

from sqlmodel import col, or_, update
from vibetuner.resources.sql import open_session
from vibetuner.tasks.robust import robust_cron

from invoice_desk.models import Invoice, now
from invoice_desk.tasks.mails import mail_reminder

PAUSE = timedelta(days=7)


@robust_cron("0 7 * * *")
async def remind_overdue() -> int:
    """Enqueue a weekly reminder of each overdue invoice, in the transaction that marks it."""
    reminded_at = col(Invoice.reminded_at)
    overdue = update(Invoice).where(
        col(Invoice.paid_at).is_(None),
        col(Invoice.due) < now().date(),
        or_(reminded_at.is_(None), reminded_at < now() - PAUSE),
    )
    async with open_session() as session:
        marked = await session.exec(
            overdue.values(reminded_at=now()).returning(col(Invoice.number))
        )
        numbers = marked.scalars().all()
        for number in numbers:
            await mail_reminder.enqueue(number).within(session)
        await session.commit()
    return len(numbers)
