"""The sender of the event stream benchmark: ``sse_sender.py REDIS_URL CHANNELS EVENTS PAUSE``.

The same commands are sent to Redis for every server, many in one write, so that neither a driver
nor a round trip is measured. An event's data is the time at which it was sent, in nanoseconds of
the clock that all processes of a machine share. Writes the time of the last one.
"""

from __future__ import annotations

import socket
import sys
import time
from urllib.parse import urlsplit

PREFIX = "bench:"
# No write is larger than what Redis reads at once.
AT_ONCE = 50


def main() -> None:
    url, channels, events, pause = sys.argv[1], *map(float, sys.argv[2:])
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as redis:
        began = time.monotonic()
        for number in range(int(events)):
            for first in range(0, int(channels), AT_ONCE):
                names = range(first, min(first + AT_ONCE, int(channels)))
                last = time.monotonic_ns()
                redis.sendall(b"".join([commands(f"c{name}", number) for name in names]))
                await_answers(redis, 4 * len(names))
            time.sleep(max(0.0, began + (number + 1) * pause - time.monotonic()))
    print(last)


def commands(channel: str, number: int) -> bytes:
    """Return the commands of `broadcast`, and a plain message for servers without a history."""
    event_id = f"{time.time_ns() // 1_000_000}-{number}"
    data = f"{time.monotonic_ns():020d}"
    stream = f"{PREFIX}sse:{channel}"
    kept = ("maxlen", "~", "200", event_id, "event", "n", "data", data)
    return b"".join(
        [
            command("xadd", stream, *kept),
            command("expire", stream, "3600"),
            command("publish", f"{PREFIX}sse", f"{channel}\n{event_id}\nn\n{data}"),
            command("publish", f"{PREFIX}plain:{channel}", data),
        ]
    )


def command(*words: str) -> bytes:
    """Encode a command for Redis; all of it is ASCII."""
    parts = "".join([f"${len(word)}\r\n{word}\r\n" for word in words])
    return f"*{len(words)}\r\n{parts}".encode()


def await_answers(redis: socket.socket, count: int) -> None:
    """Read this many answers of one line, or of two if it is a text."""
    lines = b""
    while lines.count(b"\r\n") - lines.count(b"$") < count:
        lines += redis.recv(65536)
        if b"\n-" in b"\n" + lines:
            raise SystemExit(f"Redis refuses: {lines.decode()}")


if __name__ == "__main__":
    main()
