"""The sender of webhook.py: ``webhook_child.py PORT ROUTE AT_ONCE SECRET``.

It keeps this many deliveries in flight for a few seconds, and prints their times. Requests are made
beforehand, so that the client itself is not the bottleneck.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from collections import Counter
from uuid import uuid4

port, route, at_once, secret = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
FIRST, DELIVERIES = 50, {1: 200, 10: 800, 100: 1500}[at_once]
OK = b"HTTP/1.1 202"


def request(number: int) -> bytes:
    """Return one delivery."""
    order = {
        "event": f"evt-{run}-{number}",
        "number": f"{run}-{number}",
        "customer": "Ann Lee",
        "product": "Desk lamp",
        "quantity": 2,
        "unit_price_cents": 5900,
    }
    body = json.dumps(order).encode()
    signature = hmac.new(secret.encode(), body, "sha256").hexdigest()
    head = (
        f"POST /{route} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"X-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def deliver(requests: list[bytes], times: list[float]) -> None:
    """Send requests one after the other until none is left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while requests:
        sent = requests.pop()
        began = time.perf_counter()
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        times.append((time.perf_counter() - began) * 1000)
        if not head.startswith(OK):
            refused[head.split(b"\r\n", 1)[0].decode()] += 1
            print(head, body, file=sys.stderr)
    writer.close()


async def main() -> None:
    """Send some requests to warm up, then those that are measured."""
    requests = [request(number) for number in range(FIRST + DELIVERIES)]
    await deliver(requests[:FIRST], [])
    requests, times = requests[FIRST:], []
    began = time.perf_counter()
    await asyncio.gather(*(deliver(requests, times) for _ in range(at_once)))
    rate = DELIVERIES / (time.perf_counter() - began)
    times.sort()
    shares = {f"p{share}": times[int(len(times) * share / 100)] for share in (50, 95, 99)}
    print(json.dumps({**shares, "rate": rate, "refused": refused.total()}))


refused: Counter[str] = Counter()
run = uuid4().hex[:8]
asyncio.run(main())
