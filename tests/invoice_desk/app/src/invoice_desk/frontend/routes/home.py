"""The first page: the unpaid invoices."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlmodel import col, select
from vibetuner.frontend.templates import render
from vibetuner.resources.sql import open_session

from invoice_desk.models import Invoice

router = APIRouter()


@router.get("/")
async def index(request: Request) -> HTMLResponse:
    """Show the next invoices that are due, a form for a file, and a link to the batch."""
    unpaid = select(Invoice).where(col(Invoice.paid_at).is_(None)).order_by(col(Invoice.due))
    async with open_session() as session:
        invoices = (await session.exec(unpaid.limit(50))).all()
    return render(request, "home.html", {"invoices": invoices})
