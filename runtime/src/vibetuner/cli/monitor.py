"""The page beside a worker, in a thread of its own."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from vibetuner.cli.ports import listen
from vibetuner.errors import CommandError
from vibetuner.tasks.worker import TaskWorker

__all__ = ["monitored"]

logger = logging.getLogger(__name__)


@contextmanager
def monitored(worker: TaskWorker, address: tuple[str, int] | None) -> Iterator[None]:
    """Serve the worker's page for the length of the block; a port in use is no reason to stop.

    The thread answers while a task blocks the worker's event loop. It loads a web server when
    somebody looks for the first time: a worker that nobody watches does without.
    """
    try:
        listener = listen(*address) if address else None
    except CommandError as error:
        logger.warning("no monitor: %s", error)
        listener = None
    if listener is None:
        yield
        return
    reader, writer = os.pipe()
    thread = threading.Thread(target=_serve, args=(worker, listener, reader), name="monitor")
    thread.start()
    try:
        yield
    finally:
        os.close(writer)
        thread.join()


def _serve(worker: TaskWorker, listener: socket.socket, stop: int) -> None:
    """Serve until the other end of the pipe ``stop`` is closed."""
    with closing(listener), open(stop, "rb"):
        looked_at, _, _ = select.select([listener.fileno(), stop], [], [])
        if stop in looked_at:
            return

        import uvicorn

        from vibetuner.frontend.monitor import create_monitor

        config = uvicorn.Config(
            create_monitor(worker), lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="monitor server")
        thread.start()
        select.select([stop], [], [])
        server.should_exit = True
        thread.join()
