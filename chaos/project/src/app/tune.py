"""The project's declarations."""

from __future__ import annotations

from fastapi import APIRouter

from chaos.journal import QUEUES
from vibetuner import VibetunerApp
from vibetuner.sse import sse_endpoint
from vibetuner.tasks.outbox.sql import Outbox

from .tasks import mix

router = APIRouter()


@sse_endpoint("/events/{name}", router=router)
async def events(name: str) -> str:
    """Send the events of a channel."""
    return name


app = VibetunerApp(
    tasks=[getattr(mix, name) for name in mix.__all__],
    routes=[router],
    sql_models=[Outbox],
    queues=[*QUEUES],
)
