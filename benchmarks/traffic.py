"""What does a task cost Redis: commands, bytes and round trips, before and after?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 5
TASKS = 2000
MICROSECONDS = 60
CHILD = Path(__file__).with_name("traffic_child.py")
VARIANTS = ("streaq", "robust")
WORDS = {
    "reads": ("times that the server reads from a connection", ""),
    "commands": ("commands that it runs, those inside functions included", ""),
    "received": ("bytes that it gets", "B"),
    "sent": ("bytes that it sends", "B"),
    "cpu": ("its processor time", "µs"),
}
NOTE = (
    "The server's own counters, their increase divided by the number of tasks. Ours are robust "
    "tasks, signed, with journal and counters; *beside* is streaq alone, unsigned."
)

Runs = dict[str, list[dict[str, dict[str, float]]]]


def measure(*, beside: bool) -> list[Figure]:
    """Measure tasks enqueued alone and tasks of a drain; streaq's and ours in turn."""
    del beside
    folder = make_project()
    seen: Runs = {name: [] for name in VARIANTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for name, runs in seen.items():
                runs.append(ask_child(CHILD, name, lease.urls["redis"], TASKS, folder=folder))
    return [figure(step, key, seen) for step in ("enqueue", "drain") for key in WORDS]


def figure(step: str, key: str, seen: Runs) -> Figure:
    """Return one line; less is better."""
    words, unit = WORDS[key]
    theirs, ours = [[run[step][key] for run in seen[name]] for name in VARIANTS]
    aimed = (step, key) == ("drain", "cpu")
    return Figure(
        what=f"{step} a task: {words}",
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit=unit,
        aim=f"under {MICROSECONDS}" if aimed else "",
        held=median(ours) <= MICROSECONDS if aimed else None,
        beside=median(theirs),
        beside_spread=(min(theirs), max(theirs)),
    )
