"""How soon is a result there, and how late does a delayed task start?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, workplace

from vibetuner.embedded import join

ROUNDS = 5
CHILD = Path(__file__).with_name("waiting_child.py")
VARIANTS = ("streaq", "robust")
WORDS = {
    "result p50": ("enqueue to result on an idle worker, median", "4 ms"),
    "result p99": ("the same, 99 of 100", "15 ms"),
    "late p50": ("start after the moment that a task was delayed to, median", "3 ms"),
    "late p95": ("the same, 95 of 100", "10 ms"),
    "earliest": ("the earliest start after its moment", "not below 0"),
    "calls": ("Python calls a task, in a drain (cProfile)", "under 400"),
}


def measure(*, beside: bool) -> list[Figure]:
    """Medians of several processes, streaq's and ours in turn."""
    del beside
    folder = make_project()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for name in VARIANTS:
                seen[name].append(run_child(name, lease.urls["redis"], folder))
    return [
        Figure(
            what=words,
            ours=median(run[key] for run in seen["robust"]),
            unit="calls" if key == "calls" else "ms",
            aim=aim,
            beside=median(run[key] for run in seen["streaq"]),
        )
        for key, (words, aim) in WORDS.items()
    ]


def run_child(variant: str, url: str, folder: Path) -> dict[str, float]:
    """One process; returns what it has measured."""
    done = subprocess.run(
        [sys.executable, CHILD, variant, url],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
