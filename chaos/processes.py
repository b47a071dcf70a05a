"""Starts, signals and ends the processes of a run, by their ids."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import sample
from typing import Any, TypeVar

__all__ = ["Child", "beside", "descendants", "free_port", "gone", "run_until_signal", "send"]

T = TypeVar("T")


class Child:
    """One process that can be started again and again, with its output in a file."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.busy = asyncio.Lock()
        self.told_to_end: set[int] = set()
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the id of the process that was started last."""
        assert self._process is not None, f"{self.name} was never started"  # noqa: S101
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Return the exit code of the process, or None while it runs."""
        return self._process.poll() if self._process else 0

    def start(self, command: Sequence[str | Path], *, descriptors: Sequence[int] = ()) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches only the driver."""
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ended(self) -> int:
        """Return the exit code of the process, once it has ended."""
        while True:
            if (code := self.code) is not None:
                return code
            await asyncio.sleep(0.02)

    def end(self) -> None:
        """Kill the process and its descendants, even if they are stopped."""
        if self._process is None:
            return
        family = [self.pid, *descendants(self.pid)]
        for pid in family if self.code is None else family[1:]:
            send(pid, signal.SIGKILL)
        self._process.wait()


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Return the descendants of ``pid``, children first."""
    parents = _process_table()
    found: list[int] = []
    front = [pid]
    while front:
        front = [own for own, parent in parents.items() if parent in front]
        found += front
    return found


async def gone(pids: Iterable[int], seconds: float) -> set[int]:
    """Wait until the processes have ended; return those that have not after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        left = set(pids) & _process_table().keys()
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)


def free_port() -> int:
    """Return a port on which nothing listens.

    The port is below those of outgoing connections, so that nobody takes it while a server is away.
    """
    for port in sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port between 20000 and 30000")


def _process_table() -> dict[int, int]:
    """Return the parent of each process, without zombies."""
    shown = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    rows = (line.split() for line in shown.stdout.splitlines())
    return {int(own): int(parent) for own, parent, state in rows if not state.startswith("Z")}


@asynccontextmanager
async def beside(*endless: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the coroutines beside the block, and cancel them at its end."""
    running = [asyncio.create_task(one) for one in endless]
    try:
        yield
    finally:
        for one in running:
            one.cancel()


def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Run until SIGTERM or SIGINT, which cancel the work, so that it ends its processes first.

    Also in the background of a shell, which lets its commands ignore SIGINT.

    Raises:
        CancelledError: a signal has arrived.
    """

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in one
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    return asyncio.run(cancellable())
