"""How much of what is possible do tasks of ten and of a hundred milliseconds reach?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 5
CHILD = Path(__file__).with_name("ceiling_child.py")
# Milliseconds, concurrency, the share that is the aim, and numbers of our tasks and of streaq's
# that take seconds.
CASES = (
    (10, 32, 90, {"robust": 4800, "streaq": 640}),
    (10, 256, 40, {"robust": 10_240, "streaq": 1024}),
    (100, 1000, 85, {"robust": 10_000, "streaq": 1500}),
)
NOTE = (
    "The ceiling is concurrency divided by a task's time: 3,200, 25,600 and 10,000 tasks a second. "
    "At 25,600 a second, one Python process has 39 µs a task; in that time asyncio alone can "
    "hardly start and end a sleep. Both engines run in uvloop's event loop, as our image does; "
    "asyncio's own wakes sleepers half a millisecond later."
)

Runs = dict[str, list[dict[str, float]]]


def measure(*, beside: bool) -> list[Figure]:
    """Measure ours and streaq's in turn, in each case."""
    del beside
    folder = make_project()
    seen: list[Runs] = [{"robust": [], "streaq": []} for _ in CASES]
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for (time, slots, _, counts), runs in zip(CASES, seen, strict=True):
                for variant, count in counts.items():
                    arguments = (variant, lease.urls["redis"], slots, count, time)
                    runs[variant].append(ask_child(CHILD, *arguments, folder=folder))
    return [
        figure(key, unit, f"{time} ms, concurrency {slots}: {words}", aim, runs)
        for (time, slots, aim, _), runs in zip(CASES, seen, strict=True)
        for key, unit, words in (
            ("share", "%", "share of the ceiling"),
            ("rate", "tasks/s", "tasks a second"),
            ("cores", "cores", "cores busy meanwhile"),
            ("slept", "ms", "what the sleep in a task took"),
        )
    ]


def figure(key: str, unit: str, words: str, aim: int, runs: Runs) -> Figure:
    """Return one line."""
    ours, theirs = [[run[key] for run in runs[variant]] for variant in ("robust", "streaq")]
    aimed = key == "share"
    return Figure(
        what=words,
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit=unit,
        aim=f"at least {aim} %" if aimed else "",
        held=median(ours) >= aim if aimed else None,
        beside=median(theirs),
        beside_spread=(min(theirs), max(theirs)),
    )
