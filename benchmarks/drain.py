"""What does a robust task cost, against a plain one and against the engine alone?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from lab import Figure, workplace

from vibetuner.embedded import join

TASKS = 1000
ROUNDS = 5
CHILD = Path(__file__).with_name("drain_child.py")
VARIANTS = ("streaq", "streaq signed", "plain", "robust")
WORDS = {
    "streaq": "streaq alone",
    "streaq signed": "streaq alone, payloads signed",
    "plain": "`@worker.task()`, signed, logged",
    "robust": "`@robust_task()`, signed, logged",
}
TUNE = "from vibetuner import VibetunerApp\n\napp = VibetunerApp()\n"


def measure(*, beside: bool) -> list[Figure]:
    """Tasks a second through one worker at concurrency 32: no-ops, in turns in one run."""
    del beside
    folder = make_project()
    drained: dict[str, list[float]] = {name: [] for name in VARIANTS}
    enqueued: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for name in VARIANTS:
                rates = run_child(name, lease.urls["redis"], folder)
                drained[name].append(rates["drained"])
                enqueued[name].append(rates["enqueued"])
    return [*figures("drained", drained), *figures("enqueued one by one", enqueued)]


def figures(what: str, rates: dict[str, list[float]]) -> list[Figure]:
    """The medians; the ratio is our rate over the engine's."""
    raw = median(rates["streaq"])
    return [
        Figure(
            what=f"{what}: {WORDS[name]}",
            ours=median(rates[name]),
            unit="tasks/s",
            aim=f"8 times the engine's: {8 * raw:.0f}"
            if (name, what) == ("robust", "drained")
            else "",
            beside=None if name == "streaq" else raw,
        )
        for name in VARIANTS
    ]


def make_project() -> Path:
    """The smallest project that a worker runs in."""
    folder = workplace() / "drainer"
    package = folder / "src" / "drainer"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "tune.py").write_text(TUNE, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[project]\nname = "drainer"\n', encoding="utf-8")
    return folder


def run_child(variant: str, url: str, folder: Path) -> dict[str, float]:
    """One process: enqueue, then drain; returns tasks a second."""
    done = subprocess.run(
        [sys.executable, CHILD, variant, url, str(TASKS)],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates
