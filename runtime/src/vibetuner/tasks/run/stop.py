"""Stops a worker: first gracefully, then at once, then by a kill."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vibetuner.loader import end_forks_by_signal, was_received

logger = logging.getLogger(__name__)

# A process manager signals a whole group, and `uv run` and our supervisor forward signals: those
# that arrive within this time of each other count as one.
ONE_SIGNAL_SECONDS = 1.0

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A request to stop, and how urgent it is.

    The first request lets running tasks finish within the grace period, the second one requeues
    them at once, and the third one kills the process.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._last = -ONE_SIGNAL_SECONDS
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()

    def request(self) -> None:
        """Request a stop, or a faster one."""
        self._requests += 1
        if self._requests == 1:
            self.requested.set()
        else:
            self.hurried.set()

    @contextmanager
    def on_signals(self, *, is_last: bool = False) -> Iterator[None]:
        """Treat SIGINT and SIGTERM as requests inside the block.

        Args:
            is_last: the process ends after the block, so a late signal must not kill it.
        """
        end_forks_by_signal()
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        if was_received(before[signal.SIGTERM]):
            self._signalled(signal.SIGTERM)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN if is_last else before[number])

    def _signalled(self, number: int) -> None:
        now = time.monotonic()
        is_new = now - self._last >= ONE_SIGNAL_SECONDS
        if not is_new:
            return
        self._last = now
        name = signal.Signals(number).name
        if self._requests >= 2:
            logger.warning("received %s a third time; leaving at once", name)
            logging.shutdown()
            os._exit(128 + number)
        if self._requests:
            logger.info("received %s again; requeueing what still runs", name)
        else:
            logger.info("received %s; stopping", name)
        self.request()
