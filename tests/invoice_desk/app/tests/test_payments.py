"""Payments that the bank reports."""

import asyncio
import json

import pytest
from httpx2 import AsyncClient, Response
from vibetuner.resources.sql import open_session
from vibetuner.testing import ManualWorker

from invoice_desk.frontend.routes.payments import sign
from invoice_desk.models import Invoice
from invoice_desk.tasks.payments import book_payment


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANK_SECRET", "shared with the bank")


async def deliver(client: AsyncClient, number: str, signature: bytes = b"") -> Response:
    body = json.dumps({"event": "evt_1", "number": number}).encode()
    headers = {b"X-Signature": signature or sign(body), b"Content-Type": b"application/json"}
    return await client.post("/webhooks/payments", content=body, headers=headers)


async def test_an_event_is_booked_once(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    answers = await asyncio.gather(*(deliver(vibetuner_client, "I-0") for _ in range(10)))
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    vibetuner_worker.assert_enqueued(book_payment, args=("I-0",), times=1)
    await vibetuner_worker.run_until_idle()
    async with open_session() as session:
        assert (await session.get_one(Invoice, "I-0")).paid_at is not None
    assert (await deliver(vibetuner_client, "I-1")).status_code == 409


async def test_a_wrong_signature_is_refused(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker
) -> None:
    assert (await deliver(vibetuner_client, "I-0", signature=b"0" * 64)).status_code == 401
    vibetuner_worker.assert_enqueued(book_payment, times=0)
