"""Small plots as figures of SVG. Pure: numbers in, places out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bar", "bars", "lines"]

HEIGHT = 40.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a stack, from the top left."""

    x: float
    y: float
    height: float
    kind: str


def bars(done: Sequence[int], failed: Sequence[int]) -> list[Bar]:
    """A bar a slice, what failed standing on what succeeded.

    >>> bars([3, 0], [1, 0])
    [Bar(x=0, y=10.0, height=30.0, kind='done'), Bar(x=0, y=0.0, height=10.0, kind='failed')]
    """
    most = max((a + b for a, b in zip(done, failed, strict=True)), default=0)
    found = []
    for x, (good, bad) in enumerate(zip(done, failed, strict=True)):
        tall, short = (HEIGHT * n / most if most else 0.0 for n in (good, bad))
        if good:
            found.append(Bar(x, round(HEIGHT - tall, 2), round(tall, 2), "done"))
        if bad:
            found.append(Bar(x, round(HEIGHT - tall - short, 2), round(short, 2), "failed"))
    return found


def lines(values: Sequence[float | None], most: float) -> list[str]:
    """The points of a line, on a logarithmic scale up to ``most``; a gap where there is nothing.

    >>> lines([1, None, 1000, 1000], 1000)
    ['0,40.0 0.9,40.0', '2,2.0 3,2.0 3.9,2.0']
    """
    scale = math.log10(max(most, 10.0))
    runs: list[list[str]] = [[]]
    for x, value in enumerate(values):
        if value is None:
            runs.append([])
            continue
        y = HEIGHT - (HEIGHT - 2) * min(1.0, math.log10(max(value, 1.0)) / scale)
        runs[-1].append(f"{x},{round(y, 1)}")
    return [_widened(run) for run in runs if run]


def _widened(run: list[str]) -> str:
    # A point alone would not be seen.
    x, y = run[-1].split(",")
    return " ".join([*run, f"{int(x) + 0.9},{y}"])
