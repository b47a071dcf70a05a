"""A process of traffic.py: reads the server's counters while tasks are enqueued and drained."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from urllib.parse import urlsplit

from both import configure, make_task

variant, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
configure(url)


async def noop() -> None:
    """Do nothing."""


def ask_server() -> dict[str, float]:
    """Return the counters to compare."""
    server = urlsplit(url)
    with socket.create_connection((server.hostname or "", server.port or 6379)) as line:
        line.sendall(b"INFO everything\r\nQUIT\r\n")
        text = b"".join(iter(lambda: line.recv(65536), b"")).decode()
    pairs = dict(part.split(":", 1) for part in text.splitlines() if ":" in part)
    calls = [value for name, value in pairs.items() if name.startswith("cmdstat_")]
    return {
        "reads": float(pairs["total_reads_processed"]),
        "commands": float(sum(int(value.split("=")[1].split(",")[0]) for value in calls)),
        "received": float(pairs["total_net_input_bytes"]),
        "sent": float(pairs["total_net_output_bytes"]),
        "cpu": 1e6 * (float(pairs["used_cpu_user"]) + float(pairs["used_cpu_sys"])),
    }


async def main() -> None:
    """Print the cost of one task to the server, in both cases."""
    task = make_task(variant, noop)
    async with task.worker:
        before = ask_server()
        for _ in range(count):
            await task.enqueue()
        enqueued = ask_server()
    task.worker.burst = True
    idle = ask_server()
    await task.worker.run_async()
    drained = ask_server()
    found = {
        "enqueue": {name: (enqueued[name] - before[name]) / count for name in before},
        "drain": {name: (drained[name] - idle[name]) / count for name in before},
    }
    print(json.dumps(found))


asyncio.run(main())
