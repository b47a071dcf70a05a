"""How soon does a result arrive, and how late does a delayed task start?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 5
CHILD = Path(__file__).with_name("waiting_child.py")
MANY = Path(__file__).with_name("results_child.py")
RESULTS = 10_000
VARIANTS = ("streaq", "robust")
# The words for each figure, its unit and its limit.
WORDS = {
    "result p50": ("enqueue to result on an idle worker, median", "ms", 1.2),
    "result p99": ("the same, 99 of 100", "ms", 4),
    "late p50": ("start after the moment that a task was delayed to, median", "ms", 3),
    "late p95": ("the same, 95 of 100", "ms", 10),
    "calls": ("Python calls a task, enqueued and drained (cProfile)", "calls", 200),
}
NOTE = (
    "Worker and waiter share a process and its event loop; in the table of peers they don't. Times "
    "are kept in whole milliseconds, and a task is never queued before its time."
)

Runs = dict[str, list[dict[str, float]]]


def measure(*, beside: bool) -> list[Figure]:
    """Return medians of several processes, streaq's and ours in turn."""
    del beside
    folder = make_project()
    seen: Runs = {name: [] for name in VARIANTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        url = lease.urls["redis"]
        for _ in range(ROUNDS):
            for name, runs in seen.items():
                runs.append(ask_child(CHILD, name, url, folder=folder))
        many = ask_child(MANY, url, RESULTS, folder=folder)
    return [*(figure(key, seen) for key in WORDS), earliest(seen), missed(many)]


def figure(key: str, seen: Runs) -> Figure:
    """Return one line."""
    words, unit, limit = WORDS[key]
    theirs, ours = [[run[key] for run in seen[name]] for name in VARIANTS]
    return Figure(
        what=words,
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit=unit,
        aim=f"under {limit}" if unit == "calls" else f"{limit} ms",
        held=median(ours) <= limit,
        beside=median(theirs),
        beside_spread=(min(theirs), max(theirs)),
    )


def earliest(seen: Runs) -> Figure:
    """Return the earliest start of all rounds."""
    theirs, ours = [min(run["earliest"] for run in seen[name]) for name in VARIANTS]
    return Figure(
        what="the earliest start after its moment, of all rounds",
        ours=ours,
        unit="ms",
        aim="not below 0",
        held=ours >= 0,
        beside=theirs,
    )


def missed(many: dict[str, float]) -> Figure:
    """Count the waits that ended without the result that was stored."""
    return Figure(
        what=f"results missed of {RESULTS:,}, 50 waited for at a time, {many['rate']:.0f} a second",
        ours=many["missed"],
        unit="",
        aim="none",
        held=not many["missed"],
    )
