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
    """Drain robust no-ops through a worker at concurrency 32, with the journal and without."""
    del beside
    folder = make_project()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for number in range(ROUNDS):
            for name in VARIANTS if number % 2 else reversed(VARIANTS):
                runs[name].append(drain(name, lease.urls["redis"], folder))
    pairs = list(zip(runs["with"], runs["without"], strict=True))
    kept = [ours["drained"] / bare["drained"] for ours, bare in pairs]
    added = [ours["spent"] - bare["spent"] for ours, bare in pairs]
    middle = {
        (name, what): median(run[what] for run in runs[name])
        for name in VARIANTS
        for what in ("drained", "spent")
    }
    return [
        Figure(what="drained, with the journal", ours=middle["with", "drained"], unit="tasks/s"),
        Figure(what="drained, without it", ours=middle["without", "drained"], unit="tasks/s"),
        Figure(what="of the rate, the journal leaves", ours=100 * median(kept), unit="%"),
        Figure(
            what="processor time a task, with the journal", ours=middle["with", "spent"], unit="µs"
        ),
        Figure(
            what="processor time a task, without it", ours=middle["without", "spent"], unit="µs"
        ),
        Figure(what="what the journal adds", ours=median(added), unit="µs"),
    ]


def drain(variant: str, url: str, folder: Path) -> dict[str, float]:
    """Run a process; return tasks a second, and the worker's processor microseconds a task."""
    done = subprocess.run(
        [sys.executable, CHILD, variant, url, str(TASKS)],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    run: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{variant}: {run}", file=sys.stderr, flush=True)
    return run
