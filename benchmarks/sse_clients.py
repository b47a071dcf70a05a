"""The readers and the sender of the event stream benchmark, in a process of their own.

``python sse_clients.py KIND REDIS_URL PORT CLIENTS CHANNELS EVENTS PAUSE`` prints one JSON object.
An event's latency is the time from before it is sent to its receipt, on one clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request

from coredis import Redis

from vibetuner.sse.history import History

PREFIX = "bench:"


class Reader(asyncio.Protocol):
    """One browser: notes when each event came."""

    def __init__(self, channel: int, latencies: list[float], sent: dict[str, float]) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self.got = 0
        self._channel = channel
        self._latencies = latencies
        self._sent = sent
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(  # type: ignore[attr-defined]
            f"GET /events/c{self._channel} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.opened.done() and (b": open" in data or b"id: " in data):
            self.opened.set_result(None)
        if b"data: " not in data and not self._rest:
            return
        *parts, self._rest = (self._rest + data).split(b"data: ")
        # What stands before the first mark belongs to no event; the last may not be whole.
        whole = parts[1:] if parts else []
        key, newline, _ = self._rest.partition(b"\n") if parts else (b"", b"", b"")
        for part in whole:
            self._note(part.split(b"\n", 1)[0].strip(), now)
        if newline:
            self._note(key.strip(), now)
            self._rest = b""
        elif parts:
            self._rest = b"data: " + self._rest

    def _note(self, key: bytes, now: float) -> None:
        self.got += 1
        self._latencies.append(now - self._sent[key.decode()])


async def main() -> None:
    kind, url = sys.argv[1:3]
    port, clients, channels, events = map(int, sys.argv[3:7])
    pause = float(sys.argv[7])
    before = ask(port)
    latencies: list[float] = []
    sent: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    readers = [Reader(number % channels, latencies, sent) for number in range(clients)]
    for start in range(0, clients, 50):
        group = readers[start : start + 50]
        for reader in group:
            await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", port)
        await asyncio.wait_for(asyncio.gather(*(reader.opened for reader in group)), 120)
    await asyncio.sleep(1)
    idle = await asyncio.to_thread(ask, port)
    async with Redis.from_url(url, decode_responses=True) as redis:
        history = History(redis, PREFIX, size=200, ttl=3600)
        began = time.perf_counter()
        for number in range(events):
            for channel in range(channels):
                key = f"{channel}-{number}"
                sent[key] = time.perf_counter()
                if kind == "ours":
                    await history.send(f"c{channel}", "n", key)
                else:
                    await redis.publish(f"{PREFIX}plain:c{channel}", key)
            await asyncio.sleep(max(0, began + (number + 1) * pause - time.perf_counter()))
        wanted = events * clients
        deadline = time.perf_counter() + 120
        while len(latencies) < wanted and time.perf_counter() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
    after = await asyncio.to_thread(ask, port)
    latencies.sort()
    print(
        json.dumps(
            {
                "delivered": len(latencies) / wanted,
                "rate": len(latencies) / took,
                "p50": 1000 * latencies[len(latencies) // 2],
                "p99": 1000 * latencies[len(latencies) * 99 // 100],
                "cpu": 1e6 * (after["cpu"] - idle["cpu"]) / len(latencies),
                "kib": (idle["kib"] - before["kib"]) / clients,
                "kib_after": (after["kib"] - before["kib"]) / clients,
            }
        )
    )


def ask(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/used", timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    asyncio.run(main())
