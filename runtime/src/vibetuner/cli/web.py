"""One web process: of the web app, or of the monitor beside a worker."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.trustedhost import TrustedHostMiddleware

from vibetuner.cli.complaint import run_in_loop
from vibetuner.cli.connections import LimitedServer, make_config
from vibetuner.cli.loading import loading
from vibetuner.cli.schema import make_schema
from vibetuner.config import Settings, get_settings
from vibetuner.errors import VibetunerError
from vibetuner.frontend.app import create_app
from vibetuner.frontend.debug.gate import is_loopback
from vibetuner.frontend.monitor import Attention, create_monitor
from vibetuner.loader import end_forks_by_signal, load_project, was_received
from vibetuner.project import project_info
from vibetuner.sse.hub import KEEPALIVE_SECONDS
from vibetuner.tasks.registry import import_tasks

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5
MONITOR_CLOSE_SECONDS = 2
IDLE_SECONDS = 300.0
LOCAL_HOSTS = ("localhost", "*.localhost", "127.0.0.1", "[::1]", "::1")


def serve_frontend(listener: socket.socket, *, dev: bool) -> None:
    """Serve the project's web app on ``listener`` until a signal comes.

    Raises VibetunerError if the project is broken, or a resource does not answer.
    """
    with loading():  # before the event loop, as in a worker
        load_project()
        app = create_app()
    run_in_loop(_serve_frontend, app, listener, dev)


async def _serve_frontend(app: FastAPI, listener: socket.socket, dev: bool) -> None:
    _notice_who_is_gone(listener)
    if dev:
        await make_schema()
    settings = get_settings()
    _check_hosts(app, settings, listener, dev=dev)
    # The lifespan runs here and not in uvicorn, so that we can report an error at the start.
    async with app.router.lifespan_context(app):
        config = make_config(app, settings, access_log=dev, timeout_graceful_shutdown=CLOSE_SECONDS)
        await _serve(WebServer(config), listener)


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until a signal comes, or not at all if one came before."""
    # uvicorn raises a signal again after closing everything, when nothing is left to stop.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    end_forks_by_signal()
    if not was_received(before):
        await server.serve(sockets=[listener])


def _check_hosts(app: FastAPI, settings: Settings, listener: socket.socket, *, dev: bool) -> None:
    """Answer only requests for known host names: ALLOWED_HOSTS, or this machine's in development.

    A page of another site can point its own name at this machine's address, and could otherwise
    read the responses.
    """
    address = str(listener.getsockname()[0])
    named = [name.strip() for name in settings.allowed_hosts.split(",") if name.strip()]
    is_private = is_loopback(address) or settings.published_locally
    if named or (dev and is_private):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS, *named])
    if dev and not is_private:
        logger.warning(
            "other machines reach this web app on %s; /debug is open to this one, and to others "
            "with DEBUG_ACCESS_TOKEN",
            address,
        )


def _notice_who_is_gone(listener: socket.socket) -> None:
    """End connections whose other side has disappeared, such as a phone in a tunnel.

    Options of a listener apply to the connections that it accepts.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if unacknowledged := getattr(socket, "TCP_USER_TIMEOUT", None):  # Linux
        milliseconds = int(KEEPALIVE_SECONDS * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, unacknowledged, milliseconds)


class WebServer(LimitedServer):
    """The server of a web app; it logs when it is ready."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            logger.info("web app ready at http://%s:%s", f"[{host}]" if ":" in host else host, port)


def serve_monitor(listener: socket.socket, *, host: str, worker_id: str) -> None:
    """Serve the dashboard until a signal comes, or until five minutes pass without a visitor."""
    try:
        load_project()
        import_tasks(project_info())
    except VibetunerError:
        pass  # the pages work without the project's functions
    run_in_loop(_serve_monitor, listener, host, worker_id)


async def _serve_monitor(listener: socket.socket, host: str, worker_id: str) -> None:
    attention = Attention()
    app = create_monitor(host, worker_id, attention)
    async with app.router.lifespan_context(app):
        config = make_config(
            app, get_settings(), access_log=False, timeout_graceful_shutdown=MONITOR_CLOSE_SECONDS
        )
        server = LimitedServer(config)
        idling = asyncio.create_task(_end_when_idle(server, attention))
        await _serve(server, listener)
        idling.cancel()


async def _end_when_idle(server: uvicorn.Server, attention: Attention) -> None:
    while attention.idle_seconds < IDLE_SECONDS:  # noqa: ASYNC110 - time makes no event
        await asyncio.sleep(1)
    server.should_exit = True
