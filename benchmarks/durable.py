"""What does `start(durable=True)` cost?"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from drain import make_project
from lab import Figure, ask_child

from vibetuner.embedded.folder import valkey_binary
from vibetuner.redis.blocking import ask, responds
from vibetuner.redis.url import parse_url

ROUNDS = 3
CHILD = Path(__file__).with_name("durable_child.py")
FILE = ("--appendonly", "yes", "--appendfsync")
# Options of the server, the number of its replicas, and of calls one after the other.
SERVERS = {
    "file, written at each call": ((*FILE, "always"), 0, 300),
    "file, written each second": ((*FILE, "everysec"), 0, 4),
    "one replica, no file": ((), 1, 300),
    "one replica, and a file written at each call": ((*FILE, "always"), 1, 300),
}
NOTE = (
    "*Beside* is the same call without `durable=True`. Server, replica and client share a machine, "
    "so the way to the replica is as short as it can be."
)


def measure(*, beside: bool) -> list[Figure]:
    """Measure calls one by one and fifty at a time, durable and plain in turn."""
    del beside
    folder = make_project()
    figures = []
    for words, (options, replicas, calls) in SERVERS.items():
        runs: dict[str, list[dict[str, float]]] = {"durable": [], "plain": []}
        with serving(*options, replicas=replicas) as url:
            for _ in range(ROUNDS):
                for name, found in runs.items():
                    found.append(ask_child(CHILD, name, url, calls, folder=folder))
        figures += [
            figure("one enqueue, alone", words, "alone", "ms", runs),
            figure("fifty at a time", words, "together", "tasks/s", runs),
        ]
    return figures


def figure(
    what: str, words: str, key: str, unit: str, runs: dict[str, list[dict[str, float]]]
) -> Figure:
    """Return the medians of both."""
    ours, plain = [[run[key] for run in runs[name]] for name in ("durable", "plain")]
    return Figure(
        what=f"{what}: {words}",
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit=unit,
        beside=median(plain),
        beside_spread=(min(plain), max(plain)),
    )


@contextmanager
def serving(*options: str, replicas: int) -> Iterator[str]:
    """Run a server with its replicas; yield its URL."""
    with ExitStack() as stack:
        ports: list[int] = []
        for _ in range(1 + replicas):
            more = ("--replicaof", f"127.0.0.1 {ports[0]}") if ports else ()
            ports.append(stack.enter_context(server(*options, *more)))
        url = f"redis://127.0.0.1:{ports[0]}"
        while str(ask(parse_url(url), ["INFO"])).count("state=online") < replicas:
            time.sleep(0.05)
        yield url


@contextmanager
def server(*options: str) -> Iterator[int]:
    """Run a server; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    own = ("--port", str(port), "--bind", "127.0.0.1", "--save", "")
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [valkey_binary(), *own, "--dir", folder, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not responds(port):
                time.sleep(0.05)
            yield port
        finally:
            process.kill()
            process.wait()
