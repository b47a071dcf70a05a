"""One web process."""

from __future__ import annotations

import logging
import signal
import socket

import anyio
import uvicorn

from vibetuner.cli.schema import make_schema
from vibetuner.frontend.app import create_app
from vibetuner.sse.hub import get_hub

__all__ = ["serve_frontend"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5


def serve_frontend(listener: socket.socket, *, dev: bool) -> None:
    """Serve the project's web app on ``listener`` until a signal comes.

    Raises:
        VibetunerError: the project is broken, or a resource does not answer.
    """
    anyio.run(_serve_frontend, listener, dev)


async def _serve_frontend(listener: socket.socket, dev: bool) -> None:
    if dev:
        await make_schema()
    app = create_app()
    # The lifespan runs here and not in uvicorn, so that an error at start is ours to tell.
    async with app.router.lifespan_context(app):
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=dev,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        # uvicorn hands a signal on once it has closed everything; by then there is nothing to end.
        signal.signal(signal.SIGTERM, lambda *_: None)
        await WebServer(config).serve(sockets=[listener])


class WebServer(uvicorn.Server):
    """uvicorn's server, which says when it is ready and ends open event streams first."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            logger.info("web app ready at http://%s:%s", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open, event streams at once."""
        get_hub().close()
        await super().shutdown(sockets=sockets)
