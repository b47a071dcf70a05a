"""The monitor's web process."""

from __future__ import annotations

import asyncio
import signal
import socket

import uvicorn

from vibetuner.cli.connections import LimitedServer, make_config
from vibetuner.config import get_settings
from vibetuner.errors import VibetunerError
from vibetuner.frontend.monitor import Attention, create_monitor
from vibetuner.loader import load_project
from vibetuner.project import project_info
from vibetuner.tasks.registry import import_tasks

IDLE_SECONDS = 300.0
CLOSE_SECONDS = 2


def serve_monitor(listener: socket.socket, *, host: str, worker_id: str) -> None:
    """Serve the dashboard until a signal comes, or until five minutes pass without a visitor."""
    try:
        load_project()
        import_tasks(project_info())
    except VibetunerError:
        pass  # the pages work without the project's functions
    asyncio.run(_serve(listener, host, worker_id))


async def _serve(listener: socket.socket, host: str, worker_id: str) -> None:
    attention = Attention()
    app = create_monitor(host, worker_id, attention)
    async with app.router.lifespan_context(app):
        config = make_config(
            app, get_settings(), access_log=False, timeout_graceful_shutdown=CLOSE_SECONDS
        )
        server = LimitedServer(config)
        signal.signal(signal.SIGTERM, lambda *_: None)
        idling = asyncio.create_task(_end_when_idle(server, attention))
        await server.serve(sockets=[listener])
        idling.cancel()


async def _end_when_idle(server: uvicorn.Server, attention: Attention) -> None:
    while attention.idle_seconds < IDLE_SECONDS:  # noqa: ASYNC110 - time makes no event
        await asyncio.sleep(1)
    server.should_exit = True
