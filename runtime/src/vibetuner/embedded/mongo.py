"""The Mongo-protocol server: nx-27017 on a socket that the keeper bound.

nx's own ``main`` is not used: it picks its port itself, leaves its databases open when it is
stopped, and keeps its files in ``/tmp``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import sys
from contextlib import suppress

from nx_27017 import NeoSQLiteHandler
from nx_27017.server import handle_client

__all__ = ["main"]

PARENT_POLL = 0.5


def main() -> None:
    """``python -m vibetuner.embedded.mongo <data folder> <descriptor> <keeper's pid>``."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    data, descriptor, keeper = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        handler = NeoSQLiteHandler(data_dir=data)
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"{data} can't be opened: {error}")
    try:
        asyncio.run(_serve(handler, socket.socket(fileno=descriptor), keeper))
    finally:
        handler.close_all()


async def _serve(handler: NeoSQLiteHandler, listener: socket.socket, keeper: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio.run() cancels the conversations that are open at the end.
        with suppress(asyncio.CancelledError):
            await handle_client(reader, writer, handler)

    server = await asyncio.start_server(talk, sock=listener)
    # Where the kernel can't tell us that the keeper died (macOS), we look.
    while not stop.is_set() and os.getppid() == keeper:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PARENT_POLL)
    server.close()
    # asyncio.run() also waits for the statements that run in its threads; then they are all stored.


if __name__ == "__main__":
    main()
