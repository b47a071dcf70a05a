"""How much of what is possible do tasks of ten milliseconds reach?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 5
CHILD = Path(__file__).with_name("ceiling_child.py")
# So many tasks at so much concurrency that each takes seconds, not minutes.
COUNTS = {("robust", 32): 4800, ("streaq", 32): 640, ("robust", 256): 10_240, ("streaq", 256): 1024}
AIM = 85
NOTE = (
    "Possible is concurrency / 10 ms: 3,200 tasks a second at 32, 25,600 at 256. A single process "
    "of Python would have 39 µs for each of the latter, in which asyncio itself can hardly start a "
    "sleep and end it: that aim says how far we are from what one core can do. Both run in "
    "uvloop's event loop, as our image does; asyncio's own wakes sleepers half a millisecond later."
)


def measure(*, beside: bool) -> list[Figure]:
    """Ours and streaq's in turn, at both concurrencies."""
    del beside
    folder = make_project()
    seen: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in COUNTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for case, runs in seen.items():
                variant, concurrency = case
                arguments = (variant, lease.urls["redis"], concurrency, COUNTS[case])
                runs.append(ask_child(CHILD, *arguments, folder=folder))
    return [
        figure(words, key, unit, concurrency, seen)
        for concurrency in (32, 256)
        for key, unit, words in (
            ("share", "%", "share of the ceiling"),
            ("rate", "tasks/s", "tasks a second"),
            ("cores", "cores", "cores busy meanwhile"),
            ("slept", "ms", "a task's ten milliseconds took"),
        )
    ]


def figure(
    words: str,
    key: str,
    unit: str,
    concurrency: int,
    seen: dict[tuple[str, int], list[dict[str, float]]],
) -> Figure:
    """One line."""
    ours = [run[key] for run in seen["robust", concurrency]]
    theirs = [run[key] for run in seen["streaq", concurrency]]
    aimed = key == "share"
    return Figure(
        what=f"concurrency {concurrency}: {words}",
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit=unit,
        aim=f"at least {AIM} %" if aimed else "",
        held=median(ours) >= AIM if aimed else None,
        beside=median(theirs),
        beside_spread=(min(theirs), max(theirs)),
    )
