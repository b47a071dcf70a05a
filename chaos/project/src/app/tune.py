"""The project's declarations."""

from __future__ import annotations

from chaos.journal import QUEUES
from vibetuner import VibetunerApp
from vibetuner.tasks.outbox.sql import Outbox

from .tasks import mix

app = VibetunerApp(
    tasks=[getattr(mix, name) for name in mix.__all__], sql_models=[Outbox], queues=[*QUEUES]
)
