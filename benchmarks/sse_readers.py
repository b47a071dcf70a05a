"""The browsers of the event stream benchmark: ``sse_readers.py PORT CLIENTS CHANNELS EVENTS``.

Writes ``ready`` when all of them listen, and one JSON object at the end. While events come it only
notes what came when: whoever reads must not be what is measured.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from bisect import bisect_left

MARK = b"data: "
EVENT = re.compile(rb"data: (\d{20})\r?\n")
# After so long without an event none is waited for any more.
SILENCE_SECONDS = 20.0


def main() -> None:
    port, clients, channels, events = map(int, sys.argv[1:])
    selector = selectors.DefaultSelector()
    chunks: list[list[tuple[int, bytes]]] = [[] for _ in range(clients)]
    for number in range(clients):
        browser = open_browser(port, number % channels)
        selector.register(browser, selectors.EVENT_READ, chunks[number])
    print("ready", flush=True)
    receive(selector, clients * events)
    report(chunks, clients * events)


def open_browser(port: int, channel: int) -> socket.socket:
    """A connection whose stream has begun; both kinds of servers say so."""
    browser = socket.create_connection(("127.0.0.1", port), timeout=60)
    browser.sendall(f"GET /events/c{channel} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = b""
    while b"id: " not in head and b": open" not in head:
        head += browser.recv(65536)
    browser.setblocking(False)
    return browser


def receive(selector: selectors.BaseSelector, wanted: int) -> None:
    """Note what comes, until all has come."""
    clock, count, patience = time.monotonic_ns, 0, 60.0
    while count < wanted and (ready := selector.select(patience)):
        patience = SILENCE_SECONDS
        for key, _ in ready:
            data = key.fileobj.recv(262144)  # type: ignore[union-attr]
            key.data.append((clock(), data))
            count += data.count(MARK)


def report(chunks: list[list[tuple[int, bytes]]], wanted: int) -> None:
    """Find each event, and the moment at which the last of its bytes came."""
    latencies: list[float] = []
    first_sent, last_came = sys.maxsize, 0
    for browser in chunks:
        ends: list[int] = []
        size = 0
        for _, data in browser:
            size += len(data)
            ends.append(size)
        for event in EVENT.finditer(b"".join([data for _, data in browser])):
            sent, came = int(event[1]), browser[bisect_left(ends, event.end())][0]
            first_sent, last_came = min(first_sent, sent), max(last_came, came)
            latencies.append((came - sent) / 1e6)
    latencies.sort()
    seconds = (last_came - first_sent) / 1e9
    print(
        json.dumps(
            {
                "delivered": len(latencies) / wanted,
                "rate": len(latencies) / seconds,
                "p50": latencies[len(latencies) // 2],
                "p99": latencies[len(latencies) * 99 // 100],
                "events": len(latencies),
            }
        )
    )


if __name__ == "__main__":
    main()
