"""A browser that listens to a channel, and notes the events that it hears."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from chaos.journal import note

__all__ = ["Reader"]

RETRY_SECONDS = 0.2
# More than the pause between two keepalives; a silent connection is dead.
SILENCE_SECONDS = 40.0


class Reader:
    """Reconnects for ever, and continues after the last id that it was told."""

    def __init__(self, port: int, channel: str) -> None:
        self.ready = asyncio.Event()
        self._port = port
        self._channel = channel
        self._last = ""

    async def listen(self) -> None:
        """Listen until cancelled."""
        while True:
            with suppress(OSError, EOFError, TimeoutError):
                await self._listen_once()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen_once(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            last = f"Last-Event-ID: {self._last}\r\n" * bool(self._last)
            head = f"GET /events/{self._channel} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            writer.write(f"{head}Connection: close\r\n{last}\r\n".encode())
            fields: dict[str, str] = {}
            while line := await asyncio.wait_for(reader.readline(), SILENCE_SECONDS):
                name, is_field, value = line.decode().strip().partition(": ")
                if is_field:
                    fields[name] = value
                elif not name:  # the end of an event, or the line end of a chunk
                    self._hear(fields)
                    fields = {}
        finally:
            writer.close()

    def _hear(self, fields: dict[str, str]) -> None:
        self._last = fields.get("id", self._last)
        if "retry" in fields:
            self.ready.set()
        if event := fields.get("event"):
            note("heard", channel=self._channel, event=fields.get("id", ""), kind=event)
