"""The project: it processes each event once, however often it is delivered."""

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
    """An order, with its event as the key."""

    event: str = Field(primary_key=True)


class Delivery(BaseModel):
    """The body of a delivery."""

    event: str


@robust_task(max_retries=8, backoff_base=0.5)
async def act(event: str) -> None:
    """Process an event."""
    note("acted", event=event)


@router.post("/once", status_code=202)
async def once(delivery: Delivery) -> None:
    """Enqueue the task under the event's key."""
    await act.enqueue(delivery.event).once(delivery.event)


@router.post("/within", status_code=202)
async def within(delivery: Delivery) -> None:
    """Store the order and enqueue its task in one transaction, unless the order exists."""
    async with open_session() as session:
        connection = await session.connection()
        if (await connection.execute(INSERT, {"event": delivery.event})).rowcount:
            await act.enqueue(delivery.event).within(session)
        await session.commit()


app = VibetunerApp(tasks=[act], routes=[router], sql_models=[Placed, Outbox])
