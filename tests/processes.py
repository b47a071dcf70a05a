"""Starts real `vibetuner` processes for tests, and always ends them."""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import httpx2

from tests.forks import Forked, Forks, Limits
from tests.waiting import wait_until
from vibetuner.config import Settings

OURS = {name.upper() for name in Settings.model_fields} | {
    "VIRTUAL_ENV",
    # UV_PYTHON would name an interpreter for `uv pip` in a project, too, in place of its own.
    "UV_PYTHON",
    "FORCE_COLOR",
    "NO_COLOR",
    # Otherwise every process would compile all modules that it imports.
    "PYTHONDONTWRITEBYTECODE",
}
# Tests of projects that our tests run keep their order, and load no plugin that only we have
# installed; Hypothesis alone takes half of the processor time of a short run.
ADDOPTS = "-p no:randomly -p no:hypothesispytest -p no:valkey"
UNSHUFFLED = {"PYTEST_ADDOPTS": ADDOPTS}
# A fork has these already; pytest would warn that it can't rewrite the assertions of its plugins.
PYTEST = """
import sys
import anyio
import pytest
import vibetuner
anyio.__doc__ = vibetuner.__doc__ = "PYTEST_DONT_REWRITE"
sys.exit(pytest.main(sys.argv[1:]))
"""
PORTS = range(12_000, 20_000)
PORTS_OF_A_BLOCK = 50


@dataclass
class Command:
    """A running command and what it has printed."""

    process: subprocess.Popen[str] | Forked
    log: Path

    @property
    def output(self) -> str:
        """Return the output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until ``text`` is printed; fail with the output if it isn't."""
        wait_until(
            lambda: text in self.output or self.process.poll() is not None,
            seconds=seconds,
            what=lambda: f"{text!r} in:\n{self.output}",
        )
        assert text in self.output, f"{text!r} not in:\n{self.output}"

    def stop(self, number: signal.Signals = signal.SIGINT, seconds: float = 40) -> int:
        """Send a signal as Ctrl-C does, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


def clean_environment(**variables: str) -> dict[str, str]:
    """Return the environment without this project's settings, and with ``variables``."""
    return {k: v for k, v in os.environ.items() if k not in OURS} | UNSHUFFLED | variables


@contextmanager
def vibetuner(
    *arguments: str,
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    under: Sequence[str] = (),
    limits: Limits | None = None,
) -> Iterator[Command]:
    """Run ``vibetuner …`` in ``folder``, and kill it at the end if it still runs.

    ``under`` is a program that starts this one.
    """
    with log.open("w", encoding="utf-8") as file, Path(os.devnull).open("rb") as nothing:
        process = start_vibetuner(
            *arguments,
            folder=folder,
            environment=environment,
            files=(nothing, file, file),
            under=under,
            limits=limits,
        )
    running = Command(process, log)
    try:
        yield running
    finally:
        try:
            running.stop(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            process.kill()  # its children see that and end by themselves
            process.wait(60)
            raise


def start_vibetuner(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    files: tuple[IO[bytes] | int, IO[str] | int, IO[str] | int],
    under: Sequence[str] = (),
    limits: Limits | None = None,
) -> subprocess.Popen[str] | Forked:
    """Start ``vibetuner …`` with these files as its input, output and errors."""
    command = ("-m", "vibetuner", *arguments)
    variables = clean_environment(**environment)
    if not under and (forks := _forks_for(variables)):
        return forks.start(
            command, folder=folder, environment=variables, files=files, limits=limits
        )
    if limits:
        under = ("prlimit", *(f"--{name}={low}:{high}" for name, (low, high) in limits.items()))
    stdin, stdout, stderr = files
    return subprocess.Popen(
        [*under, sys.executable, *command],
        cwd=folder,
        env=variables,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
    )


def start_group(
    *command: str | Path, folder: Path, log: Path, environment: Mapping[str, str]
) -> Command:
    """Start a command in a process group of its own; it appends what it prints to ``log``."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    return Command(process, log)


def interrupt(group: Command) -> None:
    """Send SIGINT to all of :func:`start_group`, as Ctrl-C in a terminal does; wait for its end."""
    if group.process.poll() is None:
        os.killpg(group.process.pid, signal.SIGINT)
    group.process.wait(60)


def run_vibetuner(
    *arguments: str, folder: Path, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``vibetuner …`` in ``folder`` to its end."""
    return run_module("vibetuner", *arguments, folder=folder, seconds=seconds, **environment)


def run_module(
    name: str, *arguments: str, folder: Path, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m name …`` in ``folder`` to its end."""
    return _run("-m", name, *arguments, folder=folder, seconds=seconds, **environment)


def run_code(
    code: str, *arguments: str, folder: Path, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program that uses the runtime, given as text, in ``folder`` to its end."""
    return _run("-c", code, *arguments, folder=folder, seconds=seconds, **environment)


def run_pytest(
    *arguments: str, folder: Path, seconds: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``pytest -q …`` in ``folder`` to its end."""
    options = ("-q", "-p", "no:cacheprovider")
    return _run("-c", PYTEST, *options, *arguments, folder=folder, seconds=seconds, **environment)


def _run(
    *command: str, folder: Path, seconds: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    variables = clean_environment(**environment)
    if forks := _forks_for(variables):
        return forks.run(command, folder=folder, environment=variables, seconds=seconds)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _forks_for(variables: Mapping[str, str]) -> Forks | None:
    """Return the server that forks commands, if a fork is like a command with these variables."""
    return _forks() if Forks.are_possible() and _forks().suit(variables) else None


@cache
def _forks() -> Forks:
    """Start the server that forks commands; it ends with this process."""
    forks = Forks(clean_environment())
    atexit.register(forks.close)
    return forks


def children_of(pid: int) -> set[int]:
    """Return the descendants of a process."""
    parents = {child: parent for child, (parent, _) in _processes().items()}
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def freeze(*pids: int) -> None:
    """Stop processes; return once none of their threads runs, a moment after the signal."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(map(_has_stopped, pids)), what=lambda: "processes that stop")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process and its children for the length of the block; its connections stay open."""
    processes = {pid} | children_of(pid)
    freeze(*processes)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def _has_stopped(pid: int) -> bool:
    """Return whether no thread of a process runs."""
    if sys.platform != "linux":
        return _processes(pid).get(pid, (0, "T"))[1].startswith("T")
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended
            if thread.read_bytes().rpartition(b")")[2].split()[0] not in {b"T", b"Z"}:
                return False
    return True


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie counts as ended."""
    _, state = _processes(pid).get(pid, (0, "Z"))
    return state.startswith("Z")


def _processes(only: int | None = None) -> dict[int, tuple[int, str]]:
    """Return the parent and the state of each process, or of one.

    `ps` takes a hundred times as long as a file of /proc, and tests ask until processes have ended.
    """
    if sys.platform != "linux":
        chosen = ["-A"] if only is None else ["-p", str(only)]
        command = ["ps", *chosen, "-o", "pid=,ppid=,stat="]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        rows = (line.split() for line in shown.splitlines())
        return {int(pid): (int(parent), state) for pid, parent, state in rows}
    found: dict[int, tuple[int, str]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")) if only is None else [str(only)]:
        with suppress(OSError):  # it has ended
            # The second field is a name in brackets, which may contain anything.
            fields = Path("/proc", pid, "stat").read_bytes().rpartition(b")")[2].split()
            found[int(pid)] = int(fields[1]), fields[0].decode()
    return found


def free_port() -> int:
    """Return a port on which nothing listens, and that no other test on this machine gets."""
    return next(_free_ports())


@cache
def _free_ports() -> Iterator[int]:
    """Yield ports of blocks that this process has locked until it ends.

    They lie below the ports of outgoing connections, of which the kernel may use one between the
    check and the start of a server, or while a server is down.
    """
    folder = Path(tempfile.gettempdir()) / f"ports-of-tests-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in PORTS[::PORTS_OF_A_BLOCK]:
        lock = os.open(folder / str(first), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        yield from filter(_is_free, range(first, first + PORTS_OF_A_BLOCK))


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def wait_for_http(url: str, seconds: float = 60) -> None:
    """Wait until ``url`` answers."""

    def answers() -> bool:
        try:
            return httpx2.get(url, timeout=10).status_code < 500
        except httpx2.TransportError:
            return False

    wait_until(answers, seconds=seconds, what=lambda: url)


@dataclass
class Site:
    """A web process with its address."""

    command: Command
    url: str
