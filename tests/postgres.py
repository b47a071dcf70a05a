"""A PostgreSQL server of the system's packages, on a free port, with its data in a new folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import free_port
from tests.waiting import wait_until

START_SECONDS = 30.0
# PostgreSQL refuses to run as root; Debian's package brings this user.
USER = "postgres" if os.geteuid() == 0 else None


@contextmanager
def running_postgres() -> Iterator[tuple[str, int]]:
    """Yield the URL of an empty database, and its server's pid.

    The test is skipped if PostgreSQL is not installed.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = shutil.which("initdb", path=os.pathsep.join(map(str, reversed(programs))))
    initdb = initdb or shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")
    # Other users may not enter pytest's folder.
    with tempfile.TemporaryDirectory(prefix="vibetuner-postgres-") as folder:
        if USER:
            shutil.chown(folder, USER)
        data, port = Path(folder) / "data", free_port()
        _run(initdb, "-D", str(data), "-U", "app", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = {"p": str(port), "h": "127.0.0.1", "k": ""}
        server = subprocess.Popen(
            [
                *(str(Path(initdb).with_name("postgres")), "-F", "-D", str(data)),
                *(part for name, value in options.items() for part in (f"-{name}", value)),
            ],
            user=USER,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_answer(server, port, str(Path(initdb).with_name("pg_isready")))
            yield f"postgresql+asyncpg://app@127.0.0.1:{port}/postgres", server.pid
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown
            server.wait(START_SECONDS)


def _run(*command: str) -> None:
    subprocess.run(command, user=USER, cwd="/", check=True, stdout=subprocess.DEVNULL)


def _await_answer(server: subprocess.Popen[bytes], port: int, is_ready: str) -> None:
    def answers() -> bool:
        assert server.poll() is None, f"PostgreSQL ended with {server.returncode}"
        # While it starts, it accepts connections and then refuses them.
        asked = [is_ready, "--quiet", "--host=127.0.0.1", f"--port={port}"]
        return subprocess.run(asked, check=False).returncode == 0

    wait_until(answers, seconds=START_SECONDS, what=lambda: f"PostgreSQL on port {port}")
