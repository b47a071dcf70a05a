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
from urllib.request import urlopen

from lab import Figure, clean_env, workplace

from vibetuner.embedded import join

CLIENTS = 1000
EVENTS = 200
PATIENCE_SECONDS = 400  # a subscription a client takes its time
HERE = Path(__file__).parent
KINDS = {
    "ours": "`sse_endpoint`, replay and bounds on",
    "shared": "sse-starlette, one subscription shared",
    "each": "sse-starlette, a subscription a browser",
}
# As fast as Redis takes it, and at a pace at which a thousand browsers get 20,000 events a second.
LOADS = {
    "1 channel, at once": (1, EVENTS, 0.0),
    "100 channels, at once": (100, EVENTS, 0.0),
    "1 channel, 20 a second": (1, EVENTS // 4, 0.05),
    "100 channels, 20 a second each": (100, EVENTS // 4, 0.05),
}
MEASURES = {
    "p50": ("half of the events arrive within", "ms", ""),
    "p99": ("99 of 100 arrive within", "ms", "100"),
    "cpu": ("processor time an event", "µs", ""),
    "kib": ("memory a browser", "KiB", "60"),
}


def measure(*, beside: bool) -> list[Figure]:
    """The servers take turns; readers and sender are processes of their own."""
    del beside
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    lines: list[Figure] = []
    with join(workplace() / "sse-services", ["redis"], command="benchmark") as lease:
        for load, numbers in LOADS.items():
            runs = {kind: run_once(kind, lease.urls["redis"], *numbers) for kind in KINDS}
            print(load, json.dumps(runs), file=sys.stderr, flush=True)
            lines += figures(load, runs)
    return lines


def figures(load: str, runs: dict[str, dict[str, float]]) -> list[Figure]:
    """Ours against each of the others; less is better in every line."""
    lines: list[Figure] = []
    for other, aim in (("shared", "2.5 times"), ("each", "6 times")):
        lines.append(
            Figure(
                what=f"**{load}**, beside {KINDS[other]}: time an event delivered",
                ours=1e6 / runs["ours"]["rate"],
                unit="µs",
                aim="" if "second" in load else aim,
                beside=1e6 / runs[other]["rate"],
            )
        )
        lines += [
            Figure(
                what=words,
                ours=runs["ours"][key],
                unit=unit,
                aim="" if key == "p99" and "second" not in load else aim,
                beside=runs[other][key],
            )
            for key, (words, unit, aim) in MEASURES.items()
        ]
    return lines


def run_once(kind: str, url: str, channels: int, events: int, pause: float) -> dict[str, float]:
    """One server, its readers in one process, the sender in another."""
    port = free_port()
    numbers = (str(channels), str(events))
    server = start(python(kind), "sse_servers.py", kind, url, str(port))
    try:
        wait_for(port)
        empty = ask(port)
        readers = start(sys.executable, "sse_readers.py", str(port), str(CLIENTS), *numbers)
        try:
            assert readers.stdout is not None
            if readers.stdout.readline() != "ready\n":
                raise SystemExit(f"the readers could not connect to {kind}")
            idle = ask(port)
            start(sys.executable, "sse_sender.py", url, *numbers, str(pause)).wait()
            found: dict[str, float] = json.loads(readers.communicate(timeout=PATIENCE_SECONDS)[0])
        finally:
            readers.kill()
            readers.wait()
        cpu = ask(port)["cpu"] - idle["cpu"]
    finally:
        server.kill()
        server.wait()
    memory = (idle["kib"] - empty["kib"]) / CLIENTS
    return {**found, "cpu": 1e6 * cpu / found["events"], "kib": memory}


def start(interpreter: str | Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    """One of the programs beside this."""
    return subprocess.Popen(
        [interpreter, HERE / name, *arguments],
        cwd=workplace(),
        env=clean_env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the others complain of every reader that leaves
        text=True,
    )


def ask(port: int) -> dict[str, float]:
    """What the server has used so far."""
    with urlopen(f"http://127.0.0.1:{port}/used", timeout=60) as answer:
        used: dict[str, float] = json.load(answer)
    return used


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
