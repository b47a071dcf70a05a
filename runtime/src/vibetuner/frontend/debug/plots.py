"""Small SVG charts with axes. Pure: numbers in, coordinates out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vibetuner.timing import duration

#: The height of a chart in its own units; half a label fits above its top line.
HEIGHT = 80.0
MARGIN = 6.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across the chart, and its label."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a stack; its position is that of its top left corner."""

    x: float
    y: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """Stacked bars over a scale of counts."""

    bars: list[Bar]
    ticks: list[Tick]


@dataclass(frozen=True, slots=True)
class LineChart:
    """Two lines, in pieces where values are missing, over a logarithmic scale of durations."""

    middle: list[str]
    high: list[str]
    ticks: list[Tick]


def bar_chart(done: Sequence[int], failed: Sequence[int]) -> BarChart:
    """Return a bar for each slice of time, failures above successes.

    >>> chart = bar_chart([3, 0], [1, 0])
    >>> chart.bars[0], [tick.label for tick in chart.ticks]
    (Bar(x=0, y=35.6, height=44.4, kind='done'), ['0', '5'])
    >>> [tick.label for tick in bar_chart([1300], [0]).ticks]
    ['0', '1,000', '2,000']
    """
    top = _round_up(max((a + b for a, b in zip(done, failed, strict=True)), default=0))
    scale = (HEIGHT - MARGIN) / top
    bars = []
    for x, (good, bad) in enumerate(zip(done, failed, strict=True)):
        tall, short = good * scale, bad * scale
        if good:
            bars.append(Bar(x, round(HEIGHT - tall, 2), round(tall, 2), "done"))
        if bad:
            bars.append(Bar(x, round(HEIGHT - tall - short, 2), round(short, 2), "failed"))
    counts = [0, top // 2, top] if top % 2 == 0 else [0, top]
    return BarChart(bars, [Tick(round(HEIGHT - n * scale, 1), f"{n:,}") for n in counts])


def line_chart(middle: Sequence[float | None], high: Sequence[float | None]) -> LineChart:
    """Return two lines of durations in milliseconds, and a tick at powers of ten.

    >>> chart = line_chart([1, None, 1000, 1000], [1000, None, None, None])
    >>> chart.middle, [tick.label for tick in chart.ticks]
    (['0,80.0 0.9,80.0', '2,6.0 3,6.0 3.9,6.0'], ['1 ms', '10 ms', '100 ms', '1 s'])
    """
    known = [value for value in (*middle, *high) if value is not None]
    decades = max(1, math.ceil(math.log10(max([*known, 1.0])) - 1e-9))
    step = math.ceil(decades / 3)  # more than four labels would overlap
    ticks = [Tick(_place(10.0**n, decades), duration(10.0**n)) for n in range(0, decades + 1, step)]
    return LineChart(_pieces(middle, decades), _pieces(high, decades), ticks)


def _round_up(most: int) -> int:
    """Return the next of 1, 2, 5, 10, 20, 50 and so on."""
    power: int = 10 ** max(0, len(str(max(1, most))) - 1)
    return next(n * power for n in (1, 2, 5, 10) if n * power >= most)


def _place(value: float, decades: int) -> float:
    part = min(1.0, math.log10(max(value, 1.0)) / decades)
    return round(HEIGHT - (HEIGHT - MARGIN) * part, 1)


def _pieces(values: Sequence[float | None], decades: int) -> list[str]:
    runs: list[list[str]] = [[]]
    for x, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{x},{_place(value, decades)}")
    for run in filter(None, runs):
        # A single point has no length, and would be invisible.
        last, y = run[-1].split(",")
        run.append(f"{int(last) + 0.9},{y}")
    return [" ".join(run) for run in runs if run]
