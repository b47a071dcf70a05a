"""Starts `vibetuner` commands as forks of a process that has imported what they import.

Most of the processor time of a short command is the import of FastAPI, coredis, SQLAlchemy and the
like, and of the runtime. `fork_server.py` imports them once for a process of pytest, and forks for
each command.

A command is started as usual, by `python -m vibetuner`, if the fork would differ from it: where a
variable differs that the interpreter or a library reads at its start, where the test has changed
what processes inherit (limits, umask, signals, group), and on systems other than Linux, whose
libraries need not survive a fork. Where coverage is measured, each fork imports the runtime itself,
and measures that.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

__all__ = ["Forked", "Forks", "Limits"]

# The soft and the hard limit of resources, by their names in lower case, such as `nofile`.
Limits = Mapping[str, tuple[int, int]]

# The beginnings of variables that the interpreter and libraries in C read at their start, where
# no read can be recorded.
READ_IN_C = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_")
# The lines of /proc/self/status that a process has from its parent.
INHERITED = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Cap", "NoNewPrivs", "Cpus_")
# glibc's own signals, 32 and 33. `uv run` lets a process ignore them, until its first thread.
OF_GLIBC = 0b11 << 31
SERVER = Path(__file__).with_name("fork_server.py")
LARGEST_ANSWER = 1 << 18
# coverage.py sets it for the processes that it measures.
MEASURED = "COVERAGE_PROCESS_CONFIG"


class Forked:
    """A running command, with those methods of :class:`subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], connection: socket.socket) -> None:
        self.args = ["python", *arguments]
        self.returncode: int | None = None
        self.pid = _read_number(connection)
        self._connection = connection

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command's end, and return its exit code."""
        if (code := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, unless the command has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless the command has ended."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            looking = select.poll()
            looking.register(self._connection, select.POLLIN)
            if looking.poll(None if seconds is None else seconds * 1000):
                self.returncode = os.waitstatus_to_exitcode(_read_number(self._connection))
                self._connection.close()
        return self.returncode


class Forks:
    """The fork server of one process of pytest, with which it ends.

    Args: environment: the variables that most commands begin with.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._inherited = _inherited()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packages = [] if MEASURED in environment else ["vibetuner"]
        with theirs:
            subprocess.Popen(
                [sys.executable, str(SERVER), str(theirs.fileno()), *packages],
                # Tracing would slow the imports down, and each fork begins a measurement itself.
                env={k: v for k, v in environment.items() if not k.startswith("COVERAGE_")},
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            ).returncode = 0  # nobody waits for it
        self._read_by_libraries = set(json.loads(self._control.recv(LARGEST_ANSWER)))

    def close(self) -> None:
        """End the server; commands that run go on."""
        self._control.close()

    @staticmethod
    def are_possible() -> bool:
        """Return whether this system allows forks in place of started processes."""
        return sys.platform == "linux"

    def suit(self, environment: Mapping[str, str]) -> bool:
        """Return whether a fork with these variables would behave like a started command."""
        return _inherited() == self._inherited and all(
            environment.get(name) == self._environment.get(name)
            for name in {*environment, *self._environment}
            if name in self._read_by_libraries or name.startswith(READ_IN_C)
        )

    def start(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        files: Sequence[IO[str] | IO[bytes] | int],
        limits: Limits | None = None,
    ) -> Forked:
        """Start ``python -m …`` or ``-c …`` with these files as its input, output and errors."""
        sys.audit("subprocess.Popen", "python", arguments, folder, environment)
        ours, theirs = socket.socketpair()
        with theirs:
            request = json.dumps(
                [list(arguments), str(folder), dict(environment), dict(limits or {})]
            ).encode()
            numbers = [file if isinstance(file, int) else file.fileno() for file in files]
            socket.send_fds(self._control, [request], [theirs.fileno(), *numbers])
        return Forked(arguments, ours)

    def run(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        seconds: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m …`` or ``-c …`` until it and every writer of its output have ended."""
        pipes = [os.pipe(), os.pipe()]
        with ExitStack() as stack:
            ours = [stack.enter_context(os.fdopen(end, "rb", 0)) for end, _ in pipes]
            with ExitStack() as theirs:
                files: list[IO[bytes]] = [theirs.enter_context(Path(os.devnull).open("rb"))]
                files += [theirs.enter_context(os.fdopen(end, "wb")) for _, end in pipes]
                process = self.start(arguments, folder=folder, environment=environment, files=files)
            try:
                texts = _read_to_the_end(ours, seconds)
                code = process.wait(seconds)
            except BaseException:
                process.kill()
                process.wait(60)
                raise
        return subprocess.CompletedProcess(process.args, code, *texts)


def _read_to_the_end(files: Sequence[IO[bytes]], seconds: float) -> list[str]:
    """Read from several pipes at once, as their writer may fill any of them."""
    deadline = time.monotonic() + seconds
    found = {file.fileno(): b"" for file in files}
    with selectors.DefaultSelector() as waiting:
        for number in found:
            waiting.register(number, selectors.EVENT_READ)
        while waiting.get_map():
            ready = [key.fd for key, _ in waiting.select(deadline - time.monotonic())]
            if not ready:
                raise subprocess.TimeoutExpired("python", seconds, *found.values())
            for number in ready:
                part = os.read(number, 65536)
                found[number] += part
                if not part:
                    waiting.unregister(number)
    return [text.decode("utf-8").replace("\r\n", "\n") for text in found.values()]


def _inherited() -> list[str]:
    """Return the attributes that a process inherits, besides its variables and files."""
    if not Forks.are_possible():
        return []
    status = Path("/proc/thread-self/status").read_text("utf-8").splitlines()
    return [
        *(_without_glibc(line) for line in status if line.startswith(INHERITED)),
        Path("/proc/self/limits").read_text("utf-8"),
        f"{os.getpgrp()} {os.getsid(0)} {os.getpriority(os.PRIO_PROCESS, 0)}",
    ]


def _without_glibc(line: str) -> str:
    """Return a line of a process's status; among signals, leave out those of glibc."""
    name, _, value = line.partition(":\t")
    return f"{name} {int(value, 16) & ~OF_GLIBC:x}" if name in {"SigBlk", "SigIgn"} else line


def _read_number(connection: socket.socket) -> int:
    found = connection.recv(4, socket.MSG_WAITALL)
    if len(found) < 4:
        connection.close()
        raise EOFError("the server of forks has ended")
    return int.from_bytes(found, "big")
