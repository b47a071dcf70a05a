"""A Valkey of a test's own, to be taken away and brought back at the same address."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.processes import free_port, wait_until
from vibetuner.config import Settings
from vibetuner.embedded.packages import valkey_binary
from vibetuner.redis.blocking import responds

__all__ = ["Valkey"]

LASTING = ("--appendonly", "yes", "--appendfsync", "always")


class Valkey:
    """Started by ``with`` or by ``start()``; if ``lasting``, what it holds outlives a kill.

    Args:
        folder: where it keeps what it writes.
        lasting: whether it writes an append-only file.
        options: more of its own.
        program: the server; without it, the embedded Valkey.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lasting: bool = True,
        options: tuple[str, ...] = (),
        program: str | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.settings = Settings(redis_url=self.url, redis_key_prefix="own")
        self._folder = folder
        self._options = (*(LASTING if lasting else ()), *options)
        self._program = program or valkey_binary()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, *self._options],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, what=lambda: "valkey")

    def kill(self) -> None:
        """As a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Answer nobody, and hang up on nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen inside the block."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    async def tries(self, wanted: int) -> None:
        """While it is away: hang up on those who call, until so many have."""
        seen = asyncio.Semaphore(0)

        def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            seen.release()

        async with await asyncio.start_server(hang_up, "127.0.0.1", self.port):
            async with asyncio.timeout(15):
                for _ in range(wanted):
                    await seen.acquire()

    def _answers(self) -> bool:
        return responds(self.port)
