"""Measures task queues in turn; returns a table, and whether ours leads by as much as aimed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median

from engines import ENGINES, Engine, Run, run_once, versions
from lab import Table, workplace

from vibetuner.embedded import join

ROUNDS = 5
HEADER = (
    "", "drained, tasks/s", "ours is", "enqueued, tasks/s", "ours is", "result p50, ms", "ours is",
    "result p99, ms", "ours is",
)  # fmt: skip
HOW = (
    "Each engine's own command runs one worker process at concurrency 32 (Celery's prefork: a "
    "process a core; RQ: one task at a time) against the same Valkey. A client process enqueues "
    "one by one. The task writes the time of its run to a file; a drain lasts from the first time "
    "to the last, which excludes the worker's start. Then the client enqueues and waits for a "
    "result, one by one.\n\n"
    "Tasks are async, except those of dramatiq, Celery and RQ, which have no async tasks. dramatiq "
    "and Celery keep no results in the drain; cauli and tarsk do. Ours are kept, signed, logged "
    "and journaled; no other engine signs, logs or journals. tarsk enqueues in Rust, and blocks "
    "the event loop until the server has answered; even a bare PING takes an asyncio client four "
    "fifths of that time.\n\nIn brackets: the lowest and the highest of {rounds} rounds; p99 is of "
    "all rounds together. *Ours is* says how many times as fast ours is; **bold** where ours is "
    "slower.\n\n"
    "Measured: {versions}."
)
Measured = dict[str, list[Run]]


def compare(*, tuned: bool) -> Table:
    """Measure all engines in turn, A B C A B C."""
    seen: Measured = {engine.title: [] for engine in ENGINES}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for number in range(ROUNDS):
            for engine in ENGINES:
                run = run_once(engine, lease.urls["redis"], tuned=tuned)
                seen[engine.title].append(run)
                said = f"{run.drained:.0f} drained, {run.enqueued:.0f} enqueued a second"
                said += f", {median(run.results):.1f} ms to a result"
                print(f"{number + 1}. {engine.title}: {said}", file=sys.stderr, flush=True)
    note = HOW.format(rounds=ROUNDS, versions=versions(ENGINES))
    return Table(HEADER, [line(engine, seen) for engine in ENGINES], f"{note}\n\n{verdict(seen)}")


def line(engine: Engine, seen: Measured) -> tuple[str, ...]:
    """Return the row of one engine."""
    runs, ours = seen[engine.title], seen["ours"]
    mine = engine.title == "ours"
    return (
        f"**{engine.title}**" if mine else engine.title,
        between([run.drained for run in runs]),
        "" if mine else times(drained(ours) / drained(runs)),
        between([run.enqueued for run in runs]),
        "" if mine else times(enqueued(ours) / enqueued(runs)),
        between([median(run.results) for run in runs]),
        "" if mine else times(p50(runs) / p50(ours)),
        number(p99(runs)),
        "" if mine else times(p99(runs) / p99(ours)),
    )


def verdict(seen: Measured) -> str:
    """Return the verdicts on the aims, in one line."""
    peers = {title: runs for title, runs in seen.items() if title not in {"ours", "streaq alone"}}
    ours, engine = seen["ours"], seen["streaq alone"]
    said = (
        ahead("drain 15 times streaq's", drained(ours) / drained(engine), 15),
        ahead("drain 8 times dramatiq's", drained(ours) / drained(seen["dramatiq"]), 8),
        ahead("drain ahead of tarsk", drained(ours) / drained(seen["tarsk"]), 1),
        under("cauli's drain at most 1.5 times", drained(seen["cauli"]) / drained(ours), 1.5),
        under("result p50 at most 1.2 ms", p50(ours), 1.2),
        under("result p99 at most 4 ms", p99(ours), 4),
        ahead("result p50 ahead of every peer", min(map(p50, peers.values())) / p50(ours), 1),
        ahead("result p99 ahead of every peer", min(map(p99, peers.values())) / p99(ours), 1),
    )
    return f"Aims: {'; '.join(said)}."


def ahead(aim: str, found: float, least: float) -> str:
    """Return the verdict on a ratio."""
    return f"{aim}: {found:.1f}, {'held' if found >= least else '**missed**'}"


def under(aim: str, found: float, limit: float) -> str:
    """Return the verdict on a time."""
    return f"{aim}: {found:.1f}, {'held' if found <= limit else '**missed**'}"


def drained(runs: Sequence[Run]) -> float:
    return median(run.drained for run in runs)


def enqueued(runs: Sequence[Run]) -> float:
    return median(run.enqueued for run in runs)


def p50(runs: Sequence[Run]) -> float:
    return median(median(run.results) for run in runs)


def p99(runs: Sequence[Run]) -> float:
    waited = sorted(time for run in runs for time in run.results)
    return waited[int(len(waited) * 0.99)]


def between(values: list[float]) -> str:
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1}f}"


def times(ratio: float) -> str:
    shown = f"{ratio:.{0 if ratio >= 10 else 1}f}"
    return shown if ratio >= 1 else f"**{ratio:.2f}**"
