"""The project's tasks, routes and tables."""

from vibetuner import VibetunerApp
from vibetuner.tasks.outbox.sql import Outbox

from invoice_desk.frontend.routes import documents, home, payments, uploads
from invoice_desk.models import Invoice, Upload
from invoice_desk.tasks.documents import documents_end, documents_item
from invoice_desk.tasks.imports import import_invoices
from invoice_desk.tasks.mails import mail_document, mail_reminder
from invoice_desk.tasks.payments import book_payment
from invoice_desk.tasks.reminders import remind_overdue

app = VibetunerApp(
    tasks=[
        import_invoices,
        documents_item,
        documents_end,
        mail_document,
        mail_reminder,
        book_payment,
        remind_overdue,
    ],
    routes=[home.router, uploads.router, documents.router, payments.router],
    sql_models=[Invoice, Upload, Outbox],
)
