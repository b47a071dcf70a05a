"""What does the journal cost a worker that drains its queue?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, workplace

from vibetuner.embedded import join

TASKS = 4000
ROUNDS = 7
CHILD = Path(__file__).with_name("journal_child.py")
VARIANTS = ("with", "without")


def measure(*, beside: bool) -> list[Figure]:
    """Robust no-ops through one worker at concurrency 32, with the journal and without."""
    del beside
    folder = make_project()
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for number in range(ROUNDS):
            for name in VARIANTS if number % 2 else reversed(VARIANTS):
                rates[name].append(drain(name, lease.urls["redis"], folder))
    kept = [ours / bare for ours, bare in zip(rates["with"], rates["without"], strict=True)]
    return [
        Figure(what="drained, with the journal", ours=median(rates["with"]), unit="tasks/s"),
        Figure(what="drained, without it", ours=median(rates["without"]), unit="tasks/s"),
        Figure(what="of the rate, the journal leaves", ours=100 * median(kept), unit="%"),
    ]


def drain(variant: str, url: str, folder: Path) -> float:
    """One process; returns tasks a second."""
    done = subprocess.run(
        [sys.executable, CHILD, variant, url, str(TASKS)],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    rate = json.loads(done.stdout.splitlines()[-1])["drained"]
    print(f"{variant}: {rate:.0f} tasks/s", file=sys.stderr, flush=True)
    return float(rate)
