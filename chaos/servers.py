"""Valkey and the MongoDB-protocol server, each with one port and one data folder for a run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from chaos.processes import Child, free_port
from vibetuner.embedded.folder import valkey_binary
from vibetuner.embedded.servers import mongo_pid
from vibetuner.redis.blocking import responds

__all__ = ["Mongo", "Server", "Valkey"]

START_SECONDS = 30


class Server(Child):
    """A server that is killed and started again with its port and data."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, folder, environment)
        self.port = free_port()
        self.data = folder / f"{name}-data"
        self.data.mkdir()

    def launch(self) -> None:
        """Start the server on its port."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Return once the server answers."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                if await asyncio.to_thread(self.answers):
                    return
                await asyncio.sleep(0.02)

    def answers(self) -> bool:
        """Return whether the server answers."""
        raise NotImplementedError


class Valkey(Server):
    """A Valkey that syncs each write before it acknowledges it, so accepted tasks can't be lost."""

    prefix = "chaos:"

    @property
    def url(self) -> str:
        """Return the value of REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the server on its port."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.data),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        given = (part for name, value in options.items() for part in (f"--{name}", value))
        self.start([valkey_binary(), *given])

    def answers(self) -> bool:
        """Return whether the server has loaded its data."""
        return responds(self.port)


class Mongo(Server):
    """SecantusDB, run as the embedded services run it."""

    @property
    def url(self) -> str:
        """Return the value of MONGODB_URL."""
        return f"mongodb://127.0.0.1:{self.port}/chaos"

    def launch(self) -> None:
        """Start the server, which ends when this process ends."""
        module = [sys.executable, "-P", "-m", "vibetuner.embedded.mongo"]
        self.start([*module, self.data, str(self.port), str(os.getpid())])

    def answers(self) -> bool:
        """Return whether the server accepts commands."""
        return mongo_pid(self.port) is not None
