"""The workers, and their supervision."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from chaos.journal import JOURNAL, note
from chaos.processes import Child, free_port

__all__ = ["Crewman"]

QUICK_END = 3.0
PAUSE, PAUSE_AFTER_QUICK_END = 0.05, 1.0


class Crewman(Child):
    """Runs ``vibetuner run prod worker``, and starts it again whenever it ends, as systemd does.

    Its monitor listens on ``port``.
    """

    says = b"worker ready"

    def __init__(
        self, name: str, folder: Path, environment: Mapping[str, str], *, processes: int = 1
    ) -> None:
        super().__init__(name, folder, environment)
        self._log = folder / f"{name}.log"
        self.port = free_port()
        self._arguments = ["run", "prod", "worker", "--port", str(self.port)]
        if processes > 1:
            self._arguments += ["--workers", str(processes)]

    async def serve(self) -> None:
        """Run the process until cancelled, and start it again whenever it ends."""
        while True:
            began = time.monotonic()
            self.start([sys.executable, "-m", "vibetuner", *self._arguments])
            code = await self.ended()
            # The sender of a SIGKILL notes it. A run without a journal compares process ids.
            if JOURNAL in os.environ and not (
                self.pid in self.told_to_end or code == -signal.SIGKILL
            ):
                note("exit", name=self.name, worker=self.pid, code=code)
            quick = time.monotonic() - began < QUICK_END
            await asyncio.sleep(PAUSE_AFTER_QUICK_END if quick else PAUSE)

    async def ready(self) -> None:
        """Return once the process reports that it is ready."""
        while not self._log.exists() or self.says not in self._log.read_bytes():
            if self.code not in {None, 0}:
                lines = self._log.read_text(encoding="utf-8").splitlines()
                raise RuntimeError(f"{self.name} does not start: {lines[-1] if lines else ''}")
            await asyncio.sleep(0.1)
