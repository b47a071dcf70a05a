"""A reader of event streams that reconnects with the last event's id, as a browser does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from tests.processes import wait_until


@dataclass(frozen=True)
class Received:
    """One event, as a page receives it."""

    name: str
    data: str
    id: str


class EventSource:
    """A client by section 9.2 of the HTML standard, except that it reconnects sooner."""

    def __init__(self, url: str, *, last_id: str = "", returns: bool = True) -> None:
        self.url = url
        self.last_id = last_id
        self.events: list[Received] = []
        self.comments = 0
        self.opened = 0
        self.retry: int | None = None
        self.status: int | None = None
        self.stopped = threading.Event()
        self._returns = returns
        self._connection: HTTPConnection | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(event.name, event.data) for event in self.events]

    @property
    def data(self) -> list[str]:
        return [event.data for event in self.events]

    def wait_for(self, count: int, seconds: float = 20) -> list[Received]:
        """Return the events, once there are at least ``count``."""
        wait_until(
            lambda: len(self.events) >= count,
            seconds=seconds,
            what=lambda: f"{count} events, there are {self.pairs}",
        )
        return self.events

    def wait_until_open(self, times: int = 1) -> None:
        wait_until(lambda: self.opened >= times, what=lambda: f"{self.url} to open")

    def wait_until_over(self, seconds: float = 20) -> None:
        assert self.stopped.wait(seconds), f"{self.url} goes on"

    def close(self) -> None:
        """Close the stream for good, and return once the connection is closed."""
        self._returns = False
        while not self.stopped.wait(0.05):
            if (connection := self._connection) and connection.sock:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def _live(self) -> None:
        while True:
            with suppress(OSError, HTTPException):
                self._read()
            if not self._returns or self.status == 204:
                break
            time.sleep(0.1)
        self.stopped.set()

    def _read(self) -> None:
        address = urlsplit(self.url)
        assert address.hostname
        headers = {"Accept": "text/event-stream"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        with closing(HTTPConnection(address.hostname, address.port, timeout=60)) as connection:
            self._connection = connection
            target = address._replace(scheme="", netloc="").geturl()
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                self.status = response.status
                if response.status == 200:
                    self._parse(line.decode().rstrip("\n") for line in response)

    def _parse(self, lines: Iterator[str]) -> None:
        name, data, last_id = "", list[str](), self.last_id
        for line in lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                self.last_id = last_id
                if data:
                    self.events.append(Received(name or "message", "\n".join(data), last_id))
                name, data = "", []
            elif not field:
                self.comments += 1
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                last_id = value
            elif field == "retry":
                self.retry = int(value)
                self.opened += 1


@contextmanager
def listening(url: str, *, last_id: str = "", returns: bool = True) -> Iterator[EventSource]:
    """Open the stream at ``url`` as a browser does; it is open when the block begins."""
    source = EventSource(url, last_id=last_id, returns=returns)
    try:
        source.wait_until_open()
        yield source
    finally:
        source.close()
