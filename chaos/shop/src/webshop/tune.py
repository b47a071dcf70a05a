"""What the project declares, and does: each event is acted on once, however often it comes."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel import Field, SQLModel

from chaos.journal import note
from vibetuner import VibetunerApp
from vibetuner.resources.sql import open_session
from vibetuner.tasks.outbox.sql import Outbox
from vibetuner.tasks.robust import robust_task

__all__ = ["Placed", "app"]

router = APIRouter()

INSERT = text("INSERT INTO placed (event) VALUES (:event) ON CONFLICT DO NOTHING")


class Placed(SQLModel, table=True):
    """An order, under the event that told of it."""

    event: str = Field(primary_key=True)


class Delivery(BaseModel):
    """What a sender posts."""

    event: str


@robust_task(max_retries=8, backoff_base=0.5)
async def act(event: str) -> None:
    """Act on an event."""
    note("acted", event=event)


@router.post("/once", status_code=202)
async def once(delivery: Delivery) -> None:
    """Enqueue what is to be done, under the event's key."""
    await act.enqueue(delivery.event).once(delivery.event)


@router.post("/within", status_code=202)
async def within(delivery: Delivery) -> None:
    """Store the order and enqueue what is to be done, in one transaction, unless it is there."""
    async with open_session() as session:
        connection = await session.connection()
        if (await connection.execute(INSERT, {"event": delivery.event})).rowcount:
            await act.enqueue(delivery.event).within(session)
        await session.commit()


app = VibetunerApp(tasks=[act], routes=[router], sql_models=[Placed, Outbox])
