"""A Valkey of a test's own, to be killed and started again at the same address."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

from tests.processes import free_port
from vibetuner.config import Settings
from vibetuner.embedded.packages import valkey_binary


class OwnValkey:
    """Not started yet; ``lasting`` keeps every write on disk, so that a restart loses nothing."""

    def __init__(self, folder: Path, *, lasting: bool = False) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = ["--appendonly", "yes", "--appendfsync", "always"] if lasting else []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        return Settings(redis_url=self.url, redis_key_prefix="relay")

    async def start(self) -> None:
        command = [valkey_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, *self._options],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def tries(self, wanted: int) -> None:
        """Hang up on those who call, until so many have."""
        seen = asyncio.Semaphore(0)

        def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            seen.release()

        async with await asyncio.start_server(hang_up, "127.0.0.1", self.port):
            async with asyncio.timeout(15):
                for _ in range(wanted):
                    await seen.acquire()

    def freeze(self) -> None:
        """Answer nobody, and hang up on nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
