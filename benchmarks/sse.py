"""How many events a second reach a thousand browsers, how soon, and what does each cost?"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from lab import Figure, clean_env, workplace
from worker import free_port

from vibetuner.embedded import join

Run = dict[str, float]

CLIENTS = 1000
EVENTS = 200
# Rounds of ours; the others take longest and are far from ours, so they run in the first only.
ROUNDS = 3
# Later arrivals, counted from the last event that was sent, are not waited for.
PATIENCE_SECONDS = 3.0
HERE = Path(__file__).parent
KINDS = {
    "ours": "`sse_endpoint`, replay and bounds on",
    "shared": "sse-starlette, one subscription shared",
    "each": "sse-starlette, a subscription a browser",
}
AIMS = {"shared": "2.5 times", "each": "6 times"}
# Channels, events a channel, and seconds between two events of a channel. "At once" is as fast as
# Redis takes them; at a pace, a thousand browsers get 4,000 events a second, which all servers
# manage.
LOADS = {
    "1 channel, at once": (1, EVENTS, 0.0),
    "100 channels, at once": (100, EVENTS, 0.0),
    "1 channel, 4 a second": (1, 8, 0.25),
    "100 channels, 4 a second each": (100, 8, 0.25),
}
MEASURES = {
    "rate": ("delivered", "events/s"),
    "p50": ("half of the events arrive within", "ms"),
    "p99": ("99 of 100 arrive within", "ms"),
    "cpu": ("processor time an event", "µs"),
    "kib": ("memory a browser", "KiB"),
}
NOTE = (
    f"{CLIENTS:,} browsers; {EVENTS} events a channel as fast as Redis takes them, or 8 at a pace "
    f"that saturates no server. Ours are medians of {ROUNDS} rounds, the others have one. An event "
    f"that has not arrived {PATIENCE_SECONDS:.0f} seconds after the last one was sent counts as "
    "that late, *at least*."
)


def measure(*, beside: bool) -> list[Figure]:
    """Measure the servers in turn; readers and sender are processes of their own."""
    del beside
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    with join(workplace() / "sse-services", ["redis"], command="benchmark") as lease:
        for number in range(ROUNDS):
            for load, kind in product(LOADS, KINDS if number == 0 else ["ours"]):
                run = run_once(kind, lease.urls["redis"], *LOADS[load])
                print(load, kind, json.dumps(run), file=sys.stderr, flush=True)
                runs[load, kind].append(run)
    return [
        figure(load, what, other, {kind: runs[load, kind] for kind in KINDS})
        for load in LOADS
        for what in MEASURES
        for other in AIMS
        if is_asked(load, what)
    ]


def is_asked(load: str, what: str) -> bool:
    """Return whether a figure is meaningful.

    A pace sets the rate, and the memory is equal in all loads.
    """
    return {"rate": "at once" in load, "kib": load in [*LOADS][:1]}.get(what, True)


def figure(load: str, what: str, other: str, runs: dict[str, list[Run]]) -> Figure:
    """Compare ours with one of the others."""
    words, unit = MEASURES[what]
    late = what in {"p50", "p99"} and min(run["delivered"] for run in runs[other]) < 1
    aims = {"rate": AIMS[other], "kib": "60", "p99": "" if "at once" in load else "100"}
    return Figure(
        what=f"**{load}**: {words}; beside {KINDS[other]}{', at least' * late}",
        ours=median(run[what] for run in runs["ours"]),
        unit=unit,
        aim=aims.get(what, ""),
        beside=median(run[what] for run in runs[other]),
    )


def run_once(kind: str, url: str, channels: int, events: int, pause: float) -> Run:
    """Run one server, its readers in one process, the sender in another."""
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
            sender = start(sys.executable, "sse_sender.py", url, *numbers, str(pause))
            last_sent = sender.communicate()[0].strip()
            answer, _ = readers.communicate(f"{last_sent} {PATIENCE_SECONDS}\n")
            found: Run = json.loads(answer)
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
    """Start one of the programs of this folder."""
    return subprocess.Popen(
        [interpreter, HERE / name, *arguments],
        cwd=workplace(),
        env=clean_env(SSE_STREAMS_PER_CLIENT="0"),  # all browsers have one address
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the others complain of every reader that leaves
        text=True,
    )


def ask(port: int) -> Run:
    """Return the resources that the server has used so far."""
    with urlopen(f"http://127.0.0.1:{port}/used", timeout=60) as answer:
        used: Run = json.load(answer)
    return used


@cache
def others() -> Path:
    """Install the others in a temporary environment."""
    target = workplace() / "sse-starlette-env"
    wanted = ("fastapi", "uvicorn", "sse-starlette", "redis")
    for command in (
        ("uv", "venv", "--quiet", "--python", sys.executable, target),
        ("uv", "pip", "install", "--quiet", "--python", target / "bin" / "python", *wanted),
    ):
        subprocess.run(command, cwd=workplace(), env=clean_env(), check=True)
    return target / "bin" / "python"


def python(kind: str) -> Path:
    """Return the interpreter that has the packages of a server."""
    return Path(sys.executable) if kind == "ours" else others()


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
