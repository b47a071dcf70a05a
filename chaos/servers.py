"""Valkey, the MongoDB-protocol server and PostgreSQL, each with a port and a data folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from chaos.processes import Child, free_port
from vibetuner.embedded.folder import valkey_binary
from vibetuner.embedded.servers import mongo_pid
from vibetuner.redis.blocking import responds

__all__ = ["Mongo", "Postgres", "Server", "Valkey"]

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


class Postgres(Server):
    """PostgreSQL of the system's packages, which runs as another user if this one is root."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, folder, environment)
        self._programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
            folder.chmod(0o711)  # that user has to reach its data
            shutil.chown(self.data, "postgres", "postgres")
        initdb = [str(self._programs / "initdb"), "-D", str(self.data), "-U", "app", "-A", "trust"]
        subprocess.run(
            [*self._as, *initdb, "--no-sync", "-E", "UTF8"],
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @property
    def url(self) -> str:
        """Return the value of DATABASE_URL."""
        return f"postgresql+asyncpg://app@127.0.0.1:{self.port}/postgres"

    def launch(self) -> None:
        """Start the server on its port; its data survives a kill."""
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        self.start([*self._as, self._programs / "postgres", "-D", self.data, *options])

    def answers(self) -> bool:
        """Return whether the server accepts connections."""
        if self.code is not None:  # what a killed one has left was still there
            self.launch()
        program = str(self._programs / "pg_isready")
        asked = [program, "--quiet", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0
