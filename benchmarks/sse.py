"""How many events a second reach a thousand browsers, how soon, and what does each cost?"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from lab import Figure, clean_env, workplace

from vibetuner.embedded import join

CLIENTS = 1000
EVENTS = 200
ROUNDS = 2
HERE = Path(__file__).parent
KINDS = {
    "ours": "`sse_endpoint`, replay and bounds on",
    "shared": "sse-starlette, one subscription shared",
    "each": "sse-starlette, a subscription a client",
}
# As fast as the sender can, and at a pace at which nobody has to queue for long.
LOADS = {
    "1 channel, at once": (1, EVENTS, 0.0),
    "100 channels, at once": (100, EVENTS // 10, 0.0),
    "1 channel, 20 events a second": (1, 100, 0.05),
}


def measure(*, beside: bool) -> list[Figure]:
    """The servers take turns; sender and readers are one other process."""
    del beside
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    with join(workplace() / "sse-services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for load, numbers in LOADS.items():
                for kind in KINDS:
                    run = run_once(kind, lease.urls["redis"], *numbers)
                    results.setdefault((load, kind), []).append(run)
                    print(load, kind, json.dumps(run), file=sys.stderr, flush=True)
    return [figure for load in LOADS for figure in figures(load, results)]


def figures(load: str, results: dict[tuple[str, str], list[dict[str, float]]]) -> list[Figure]:
    """Ours against each of the others; a ratio above 1 speaks for ours where less is better."""

    def of(kind: str, what: str) -> float:
        return median(run[what] for run in results[load, kind])

    lines: list[Figure] = []
    for other in ("shared", "each"):
        against = f"1,000 browsers on {load}, beside {KINDS[other]}"
        rates = of("ours", "rate"), of(other, "rate")
        aim = "2.5 times" if other == "shared" else "6 times"
        lines.append(
            Figure(
                what=f"{against}: microseconds an event delivered",
                ours=1e6 / rates[0], unit="µs", beside=1e6 / rates[1],
                aim="" if "second" in load else aim,
            )
        )  # fmt: skip
        for what, unit, aim in (
            ("p50", "ms", ""), ("p99", "ms", "100"), ("cpu", "µs", ""), ("kib", "KiB", "60"),
        ):  # fmt: skip
            names = {
                "p50": "half arrive within", "p99": "99 of 100 arrive within",
                "cpu": "processor time an event", "kib": "memory a browser",
            }  # fmt: skip
            lines.append(
                Figure(
                    what=f"{names[what]}", ours=of("ours", what), unit=unit, aim=aim,
                    beside=of(other, what),
                )
            )  # fmt: skip
    return lines


def run_once(kind: str, url: str, channels: int, events: int, pause: float) -> dict[str, float]:
    """One server, one set of readers."""
    port = free_port()
    server = subprocess.Popen(
        [python(kind), HERE / "sse_servers.py", kind, url, str(port)],
        cwd=workplace(),
        env=clean_env(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # the others complain of every reader that leaves
    )
    try:
        wait_for(port)
        numbers = map(str, (port, CLIENTS, channels, events, pause))
        done = subprocess.run(
            [sys.executable, HERE / "sse_clients.py", kind, url, *numbers],
            cwd=workplace(),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        server.kill()
        server.wait()
    found: dict[str, float] = json.loads(done.stdout)
    return found


@cache
def others() -> Path:
    """An environment for the others, thrown away at the end."""
    target = workplace() / "sse-starlette-env"
    wanted = ("fastapi", "uvicorn", "sse-starlette", "redis")
    for command in (
        ("uv", "venv", "--quiet", "--python", sys.executable, target),
        ("uv", "pip", "install", "--quiet", "--python", target / "bin" / "python", *wanted),
    ):
        subprocess.run(command, cwd=workplace(), env=clean_env(), check=True)
    return target / "bin" / "python"


def python(kind: str) -> Path:
    """The interpreter that has what a server needs."""
    return Path(sys.executable) if kind == "ours" else others()


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 90
    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}/used", timeout=5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
