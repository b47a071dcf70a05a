"""Fixtures that several tests share."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from vibetuner.resources.sql import open_session

from invoice_desk.models import Invoice, now


@pytest.fixture
async def invoices(vibetuner_sql: AsyncEngine) -> list[Invoice]:
    """Store three invoices: I-0 is due in two days, I-1 today, and I-2 is overdue."""
    invoices = [
        Invoice(
            number=f"I-{days}",
            customer="Ann Lee",
            email=f"ann-{days}@example.com",
            cents=1250,
            due=now().date() + timedelta(days=2 - 2 * days),
        )
        for days in range(3)
    ]
    async with open_session() as session:
        session.add_all(invoices)
        await session.commit()
    return invoices
