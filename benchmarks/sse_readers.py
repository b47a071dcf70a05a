"""The browsers of the event stream benchmark: ``sse_readers.py PORT CLIENTS CHANNELS EVENTS``.

Writes ``ready`` when all of them listen. A line ``SENT SECONDS`` tells it when the last event was
sent, on the clock that all processes of a machine share, and how long to wait for it; then it
writes one JSON object. While events arrive it only notes their times, so that the reader itself is
not the bottleneck.
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
# A thousand browsers are not one process: a server that writes to them one by one would spend more
# on waking it than on writing. So it reads after pauses, and all that arrived in a pause counts as
# having come at its end.
PAUSE_SECONDS = 0.002

Chunks = list[tuple[int, bytes]]


def main() -> None:
    port, clients, channels, events = map(int, sys.argv[1:])
    selector = selectors.DefaultSelector()
    browsers: list[Chunks] = [[] for _ in range(clients)]
    for number, chunks in enumerate(browsers):
        browser = open_browser(port, number % channels)
        selector.register(browser, selectors.EVENT_READ, (browser, chunks))
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    sent, until = receive(selector, clients * events)
    report(browsers, clients * events, until - sent)


def open_browser(port: int, channel: int) -> socket.socket:
    """Open a connection and wait for the comment with which both kinds of servers begin."""
    browser = socket.create_connection(("127.0.0.1", port), timeout=60)
    browser.sendall(f"GET /events/c{channel} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = b""
    while b"id: " not in head and b": open" not in head:
        head += browser.recv(65536)
    browser.setblocking(False)
    return browser


def receive(selector: selectors.BaseSelector, wanted: int) -> tuple[int, int]:
    """Note the times of arrivals, until all have come or it has taken too long.

    Returns when the last event was sent, and until when it was waited for.
    """
    clock, count = time.monotonic_ns, 0
    sent = until = 0
    space = bytearray(262144)
    view = memoryview(space)
    while not until or (count < wanted and clock() < until):
        for key, _ in selector.select(max(0.0, (until - clock()) / 1e9) if until else None):
            if key.data is None:
                last, seconds = sys.stdin.readline().split()
                sent, until = int(last), int(last) + int(float(seconds) * 1e9)
                selector.unregister(sys.stdin)
                continue
            browser, chunks = key.data
            size = browser.recv_into(space)
            data = bytes(view[:size])
            chunks.append((clock(), data))
            count += data.count(MARK)
            if not size:
                selector.unregister(browser)
        time.sleep(PAUSE_SECONDS)
    return sent, until


def report(browsers: list[Chunks], wanted: int, late: int) -> None:
    """Find each event, and the time at which the last of its bytes arrived."""
    latencies: list[float] = []
    first_sent, last_came = sys.maxsize, 0
    for chunks in browsers:
        ends: list[int] = []
        size = 0
        for _, data in chunks:
            size += len(data)
            ends.append(size)
        for event in EVENT.finditer(b"".join([data for _, data in chunks])):
            sent, came = int(event[1]), chunks[bisect_left(ends, event.end())][0]
            first_sent, last_came = min(first_sent, sent), max(last_came, came)
            latencies.append((came - sent) / 1e6)
    events = len(latencies)
    latencies += [late / 1e6] * (wanted - events)
    latencies.sort()
    print(
        json.dumps(
            {
                "delivered": events / wanted,
                "rate": events / (last_came - first_sent) * 1e9,
                "p50": latencies[wanted // 2],
                "p99": latencies[wanted * 99 // 100],
                "events": events,
            }
        )
    )


if __name__ == "__main__":
    main()
