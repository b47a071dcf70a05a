"""A Valkey server of a test's own, to be taken away and brought back."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.processes import free_port, wait_until
from vibetuner.embedded.packages import valkey_binary
from vibetuner.embedded.wire import ask

__all__ = ["Valkey"]


class Valkey:
    """A server of its own that can be killed, with a queue that survives on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; the workers find it when it is up."""
        options = {"port": str(self._port), "bind": "127.0.0.1", "dir": str(self._folder)}
        options |= {"appendonly": "yes", "appendfsync": "always", "save": ""}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [str(valkey_binary()), *arguments], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, what=lambda: "valkey")

    def kill(self) -> None:
        """As a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block it answers nobody, and hangs up on nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        return ask(self._port, b"PING\r\nQUIT\r\n").startswith(b"+PONG")
