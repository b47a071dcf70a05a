"""Notices a blocked event loop, and ends the process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vibetuner.logs import is_machinery

logger = logging.getLogger(__name__)

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
REPORT_SECONDS = 2.0


@asynccontextmanager
async def watching(limit: float) -> AsyncIterator[None]:
    """End the process if the event loop makes no step for ``limit`` seconds; 0 means never.

    The process manager starts a new one, and its tasks are run again.
    """
    if not limit:
        yield
        return
    watchdog = _Watchdog(limit)
    pulse = asyncio.create_task(watchdog.beat())
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
        pulse.cancel()


class _Watchdog(threading.Thread):
    def __init__(self, limit: float) -> None:
        super().__init__(daemon=True, name="watchdog")
        self._limit = limit
        self._loop_thread = threading.get_ident()
        self._last_beat = time.monotonic()
        self._stopped = threading.Event()

    async def beat(self) -> None:
        while True:
            self._last_beat = time.monotonic()
            await asyncio.sleep(min(1.0, self._limit / 4))

    def run(self) -> None:
        asleep_since = time.monotonic()
        while not self._stopped.wait(min(1.0, self._limit / 4)):
            now = time.monotonic()
            if now - asleep_since > self._limit / 2:
                self._last_beat = now  # the whole process was suspended, not just the loop
            asleep_since = now
            if now - self._last_beat > self._limit:
                self._end()

    def stop(self) -> None:
        self._stopped.set()

    def _end(self) -> None:
        # Logging waits for ever if the loop is blocked by a log that nobody reads.
        report = threading.Thread(target=self._report, daemon=True)
        report.start()
        report.join(REPORT_SECONDS)
        os._exit(EXIT_CODE)

    def _report(self) -> None:
        where = _where(self._loop_thread)
        logger.critical("the event loop is blocked for %g s by %s; ending", self._limit, where)
        logging.shutdown()


def _where(thread: int) -> str:
    """Return the line of the project that a thread is executing."""
    frames = list(traceback.walk_stack(sys._current_frames().get(thread)))  # noqa: SLF001
    for frame, line in frames:
        if not is_machinery(frame) and "site-packages" not in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename}:{line}, {frame.f_code.co_name}()"
    return "code outside the project"
