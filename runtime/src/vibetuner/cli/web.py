"""One web process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from asyncio import WriteTransport
from typing import cast

from fastapi import FastAPI
from fastapi.middleware.trustedhost import TrustedHostMiddleware

from vibetuner.cli.connections import LimitedServer, make_config
from vibetuner.cli.event_loop import run_in_loop
from vibetuner.cli.loading import loading
from vibetuner.cli.schema import make_schema
from vibetuner.config import Settings, get_settings
from vibetuner.frontend.app import create_app
from vibetuner.frontend.debug.gate import is_loopback
from vibetuner.loader import load_project, was_received
from vibetuner.sse.hub import KEEPALIVE_SECONDS, get_hub

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5
LOCAL_HOSTS = ("localhost", "*.localhost", "127.0.0.1", "[::1]", "::1")

# The time that an event stream gets to send its end; a browser that doesn't read would take longer.
STREAM_SECONDS = 0.3


def serve_frontend(listener: socket.socket, *, dev: bool) -> None:
    """Serve the project's web app on ``listener`` until a signal comes.

    Raises:
        VibetunerError: the project is broken, or a resource does not answer.
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
        # uvicorn raises a signal again after closing everything, when nothing is left to stop.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        if was_received(before):
            return
        await WebServer(config).serve(sockets=[listener])


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
    """uvicorn's server; it logs when it is ready, and ends open event streams first."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            logger.info("web app ready at http://%s:%s", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections, event streams at once."""
        get_hub().close()
        timer = asyncio.get_running_loop().call_later(STREAM_SECONDS, self._hang_up)
        await super().shutdown(sockets=sockets)
        timer.cancel()

    def _hang_up(self) -> None:
        """End the connections of browsers that don't read."""
        for connection in tuple(self.server_state.connections):
            flow = getattr(connection, "flow", None)
            if flow is not None and flow.write_paused:
                cast("WriteTransport", connection.transport).abort()
