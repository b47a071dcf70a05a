"""Reminders of overdue invoices, and their mail."""

from collections.abc import Callable
from datetime import timedelta
from email.message import EmailMessage

from sqlmodel import update
from vibetuner.resources.sql import open_session
from vibetuner.testing import ManualWorker, SettingsOverride

from invoice_desk.models import Invoice, now
from invoice_desk.tasks.mails import mail_reminder
from invoice_desk.tasks.reminders import remind_overdue

Mails = Callable[[], list[EmailMessage]]


async def test_a_reminder_of_an_overdue_invoice_is_sent_in_the_morning(
    vibetuner_worker: ManualWorker, vibetuner_mails: Mails, invoices: list[Invoice]
) -> None:
    await vibetuner_worker.advance(days=2)
    vibetuner_worker.assert_enqueued(mail_reminder, args=("I-2",), times=1)
    [mail] = vibetuner_mails()
    assert (mail["To"], mail["Subject"]) == (
        "ann-2@example.com",
        "Reminder: invoice I-2 is overdue",
    )


async def test_a_reminder_is_sent_once_a_week(
    vibetuner_worker: ManualWorker, vibetuner_mails: Mails, invoices: list[Invoice]
) -> None:
    assert [await remind_overdue(), await remind_overdue()] == [1, 0]
    async with open_session() as session:
        await session.exec(update(Invoice).values(reminded_at=now() - timedelta(days=8)))
        await session.commit()
    assert await remind_overdue() == 1
    await vibetuner_worker.run_until_idle()
    assert len(vibetuner_mails()) == 2


async def test_an_invoice_that_is_paid_meanwhile_gets_no_reminder(
    vibetuner_worker: ManualWorker, vibetuner_mails: Mails, invoices: list[Invoice]
) -> None:
    await remind_overdue()
    async with open_session() as session:
        await session.exec(update(Invoice).values(paid_at=now()))
        await session.commit()
    await vibetuner_worker.run_until_idle()
    assert vibetuner_mails() == []


async def test_a_mail_without_a_server_is_retried_and_becomes_a_dead_letter(
    vibetuner_worker: ManualWorker, vibetuner_settings: SettingsOverride, invoices: list[Invoice]
) -> None:
    vibetuner_settings(smtp_url="smtp://127.0.0.1:1")
    await mail_reminder.enqueue("I-0")
    await vibetuner_worker.advance(minutes=10, cron=False)
    [letter] = vibetuner_worker.dead_letters
    assert (letter.cause, letter.tries) == ("exception", 8)
